"""Large frames of every kind arrive as they were sent, in both directions.

A server's parser leaves most of a large message masked until somebody copies it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

import sockrpc
from sockrpc import Code, RPCError, Tracked
from tests.kit.support import serving

V1 = ("sockrpc.v1",)
# Around the size from which on a message is unmasked late, and the part of it that never is.
SIZES = (0, 1, 505, 512, 513, 4_080, 4_091, 4_096, 4_097, 16_000, 65_536)


def pattern(size: int) -> bytes:
    return bytes(i * 7 % 251 for i in range(size))


def make_app() -> sockrpc.App:
    """Each method gives back what it has got; both ends have it."""
    app = sockrpc.App()

    @app.method("echo")
    def echo(call: sockrpc.Call) -> bytes:
        return call.payload

    @app.method("metadata")
    def metadata(call: sockrpc.Call) -> bytes:
        return call.metadata["key"]

    @app.method("said")
    def said(call: sockrpc.Call) -> bytes:
        return call.socket.metadata["key"]

    @app.method("fail")
    def fail(call: sockrpc.Call) -> None:
        raise RPCError(Code.ABORTED, "é" * (len(call.payload) // 4), details=call.payload)

    @app.method("join")
    async def join(call: sockrpc.Call) -> bytes:
        return b"".join([item async for item in call.items()])

    @app.method("split")
    async def split(call: sockrpc.Call) -> AsyncIterator[Tracked]:
        for _ in range(3):
            yield Tracked(call.payload, call.payload[:255])

    return app


async def assert_intact(end: sockrpc.Client | sockrpc.Socket) -> None:
    for size in SIZES:
        sent = pattern(size)
        assert await end.call("echo", sent) == sent
        assert await end.call("join", items=[sent, sent]) == sent + sent
        async with end.stream("split", sent) as items:
            assert [item async for item in items] == [sent] * 3
        if size + 255 <= 65_536:
            async with end.stream("split", sent, tracked=True) as items:
                assert [(item, items.cursor) async for item in items] == [(sent, sent[:255])] * 3
        if size < 16_384:
            assert await end.call("metadata", sent, metadata={"key": sent}) == sent
        with pytest.raises(RPCError) as failed:
            await end.call("fail", sent)
        assert (failed.value.message, failed.value.details) == ("é" * (size // 4), sent)


async def test_frames_of_the_client_arrive_as_they_were_sent() -> None:
    async with serving(make_app()) as serve, serve.connect(protocols=V1) as client:
        await assert_intact(client)


async def test_frames_of_a_client_that_is_called_arrive_as_they_were_sent() -> None:
    app = make_app()

    @app.method("call me")
    async def call_me(call: sockrpc.Call) -> None:
        await assert_intact(call.socket)

    async with serving(app) as serve, serve.connect(protocols=V1, app=make_app()) as client:
        await client.call("call me")


async def test_a_large_hello_arrives_as_it_was_sent() -> None:
    async with serving(make_app()) as serve:
        for size in (0, 513, 4_096, 16_000):
            async with serve.connect(protocols=V1, metadata={"key": pattern(size)}) as client:
                assert await client.call("said") == pattern(size)
