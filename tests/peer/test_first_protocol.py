"""Both protocols on one port, under load: a peer of the first sees the bytes that it has always seen."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import sockrpc
from tests.kit.first_protocol import CONVERSATIONS, client_says, make_app, server_says, shown
from tests.kit.support import PATIENCE, Serving, serving

# The bytes were recorded on an interpreter whose tasks begin at once, which decides some of them.
pytestmark = pytest.mark.newest

V0 = sockrpc.SUBPROTOCOL
V1 = "sockrpc.v1"
RECORDED: dict[str, Any] = json.loads((Path(__file__).parents[1] / "recorded_v0.1.json").read_text("utf-8"))


def app_of_both() -> sockrpc.App:
    app = make_app()

    @app.method
    async def count(call: sockrpc.Call) -> AsyncIterator[bytes]:
        for number in range(int(call.text)):
            yield str(number).encode()

    @app.method
    async def total(call: sockrpc.Call) -> str:
        return str(sum([int(item) async for item in call.items()]))

    @app.method
    def refuse(call: sockrpc.Call) -> None:
        raise sockrpc.RPCError(sockrpc.Code.NOT_FOUND, call.text)

    return app


@contextlib.asynccontextmanager
async def load(here: Serving) -> AsyncIterator[list[int]]:
    """Clients of both protocols that call all the while; the rounds that each has done."""
    rounds = [0] * 4
    ending = asyncio.Event()

    async def new(index: int) -> None:
        async with here.connect(protocols=(V1,)) as client:
            while not ending.is_set():
                assert await client.call("echo", b"x", timeout=PATIENCE) == b"x"
                assert len([item async for item in client.stream("count", "300")]) == 300
                assert await client.call("total", items=["1"] * 100) == b"100"
                with pytest.raises(sockrpc.RPCError, match="NOT_FOUND: it"):
                    await client.call("refuse", "it")
                assert await client.start("wait").cancel() in set(sockrpc.Outcome)
                rounds[index] += 1

    async def old(index: int) -> None:
        async with here.connect(protocols=(V0,)) as client:
            while not ending.is_set():
                calls = [client.call("later", str(number)) for number in range(50)]
                assert await asyncio.gather(*calls) == [b"later %d" % number for number in range(50)]
                rounds[index] += 1

    async with asyncio.TaskGroup() as group:
        for index, work in enumerate((new, new, old, old)):
            group.create_task(work(index))
        try:
            yield rounds
        finally:
            ending.set()


async def test_a_client_sees_what_it_always_saw(caplog: pytest.LogCaptureFixture) -> None:
    seen = {}
    async with serving(app_of_both()) as here, load(here) as rounds, asyncio.timeout(6 * PATIENCE):
        for name, sent in CONVERSATIONS.items():
            before = min(rounds)
            seen[name] = shown(await server_says(here.port, sent))
            # All of them have their turn, whatever else goes on.
            while min(rounds) == before:
                await asyncio.sleep(0)
        statistics = here.server.statistics()
    assert seen == RECORDED["server"]
    assert statistics.connections >= 4


@pytest.mark.parametrize("offered", [(V0,), (V1, V0), (V0, V1)])
async def test_a_server_sees_what_it_always_saw(offered: tuple[str, ...]) -> None:
    said = await client_says(protocols=offered)
    opening = json.dumps(", ".join(offered))
    assert [said[0].replace(opening, json.dumps(V0)), *said[1:]] == RECORDED["client"]
    assert opening in said[0]
