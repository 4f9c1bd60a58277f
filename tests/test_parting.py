"""How the two ends of a connection of sockrpc.v1 part."""

from __future__ import annotations

import asyncio

import sockrpc
from tests.kit.support import PATIENCE, V1, serving, started, until


async def test_a_stop_ends_as_soon_as_the_last_call_towards_a_client_is_answered() -> None:
    mine = sockrpc.App()
    go = asyncio.Event()

    @mine.method
    async def confirm(call: sockrpc.Call) -> bytes:
        await go.wait()
        return b"yes"

    async with (
        serving(sockrpc.App(), stop_grace=3600.0) as here,
        asyncio.timeout(PATIENCE),
        here.connect(protocols=V1, app=mine) as client,
    ):
        call = await started(here.only_socket().call("confirm"))
        here.server.close()
        await until(lambda: client.closing)
        go.set()
        assert await call == b"yes"
        await here.server.wait_closed()
        await client.wait_closed()
