"""Single steps of a stream, by `anext`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

import sockrpc
from tests.kit.support import serving

V1 = ("sockrpc.v1",)


def make_app() -> sockrpc.App:
    app = sockrpc.App()

    @app.method("count")
    async def count(call: sockrpc.Call) -> AsyncIterator[str]:
        for number in range(3):
            yield str(number)

    return app


async def test_a_stream_that_nobody_else_refers_to_lives_while_a_step_waits() -> None:
    async with serving(make_app()) as here, here.connect(protocols=V1) as client:
        assert await anext(client.stream("count")) == b"0"
        with pytest.raises(sockrpc.RPCError) as told:
            await anext(client.stream("absent"), None)
        assert told.value.code is sockrpc.Code.UNIMPLEMENTED


async def test_an_error_of_the_first_step_is_raised_where_it_is_awaited() -> None:
    """With a default, `anext` of CPython does not survive an error that comes earlier."""
    async with serving(make_app()) as here, here.connect(protocols=("websocket.io-rpc-v0.1",)) as client:
        for step in (anext(client.stream("count"), None), anext(client.stream("count"))):
            with pytest.raises(sockrpc.RPCError) as told:
                await step
            assert told.value.code is sockrpc.Code.UNIMPLEMENTED


async def test_the_last_step_has_a_default() -> None:
    async with serving(make_app()) as here, here.connect(protocols=V1) as client:
        stream = client.stream("count")
        assert [await anext(stream, None) for _ in range(5)] == [b"0", b"1", b"2", None, None]
