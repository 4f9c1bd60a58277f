"""Connections without RPC: whole messages in, whole messages out, and no more parsed than can be answered."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sockrpc.limits import Limits
from sockrpc.websocket.loop import context_of_running_loop
from tests.conformance.peers import LIMITS, Receiver, connect, echo, serve
from tests.kit.deflate import agreed, deflating
from tests.kit.support import BINARY, CLOSE, CONTINUATION, TEXT, RawClient, frame, until


@contextlib.asynccontextmanager
async def raw(receiver: Receiver, limits: Limits = LIMITS) -> AsyncIterator[RawClient]:
    async with serve(receiver, 0, limits) as server, await RawClient.connect(port_of(server)) as client:
        yield client


def port_of(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


async def test_text_comes_back_as_text_and_binary_as_binary() -> None:
    large = os.urandom(100_000)
    async with raw(echo) as client:
        assert agreed(client) is None
        await client.send(frame(TEXT, "é".encode()), frame(BINARY, b"\xff"), frame(BINARY, large))
        await client.send(frame(TEXT, b"", final=False), frame(CONTINUATION, "ü".encode()), frame(TEXT))
        expected = [(TEXT, "é"), (BINARY, b"\xff"), (BINARY, large), (TEXT, "ü"), (TEXT, "")]
        for opcode, payload in expected:
            received = await client.receive()
            assert received == (opcode, payload.encode() if isinstance(payload, str) else payload)
        await client.send(frame(TEXT, b"\xff"))
        assert await client.closing() == (1007, "text message is not UTF-8")


async def test_compressed_text_comes_back_as_compressed_text() -> None:
    async with serve(echo, 0) as server, await deflating(port_of(server)) as client:
        for opcode in (TEXT, BINARY):
            for parts in (1, 3):
                await client.say("é".encode() * 20_000, opcode, parts=parts)
                assert await client.receive() == (opcode, "é".encode() * 20_000)
        assert len(client.sizes) == 4
        assert max(client.sizes) < 1000


async def test_both_roles_understand_each_other() -> None:
    received: list[str | bytes] = []
    async with serve(echo, 0) as server:
        uri = f"ws://127.0.0.1:{port_of(server)}/any/path"
        connection = await connect(
            uri, lambda _, message: received.append(message), context_of_running_loop()
        )
        assert connection.is_compressed
        messages = ["text", b"binary", "", b"", os.urandom(200_000)]
        for message in messages:
            connection.send_whole(message)
        await until(lambda: len(received) == len(messages))
        assert received == messages
        connection.close(1000, "")
        await connection.wait_lost()
        connection.send_whole("into the void")


@pytest.mark.parametrize("wrong", [None, 1, bytearray(b"x"), memoryview(b"x")])
async def test_a_message_is_str_or_bytes(wrong: Any) -> None:
    errors: list[TypeError] = []

    def receive(connection: Any, _: str | bytes) -> None:
        try:
            connection.send_whole(wrong)
        except TypeError as error:
            errors.append(error)

    async with raw(receive) as client:
        await client.send(frame(TEXT, b"x"))
        await client.synchronize()
        assert [str(each) for each in errors] == [f"a message is str or bytes, not {type(wrong).__name__}"]


async def test_an_exception_of_the_receiver_is_told_and_ends_nothing() -> None:
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))

    def receive(connection: Any, message: str | bytes) -> None:
        if message == b"bad":
            raise ValueError("bad")
        connection.send_whole(message)

    async with raw(receive) as client:
        await client.send(frame(BINARY, b"bad"), frame(BINARY, b"good"))
        assert await client.receive() == (BINARY, b"good")
        assert [str(each) for each in told] == ["bad"]


async def test_what_can_not_be_answered_is_not_parsed() -> None:
    answered = 0

    def receive(connection: Any, _: str | bytes) -> None:
        nonlocal answered
        answered += 1
        connection.send_whole(bytes(300_000))

    limits = Limits(ping_interval=None, output_high_bytes=100_000, output_low_bytes=1000)
    async with raw(receive, limits) as client:
        client.writer.write(frame(TEXT, b"x") * 100)
        await until(lambda: answered > 0)
        first = answered
        # It reads on, so whatever was going to be parsed has been when this has come.
        for _ in range(100):
            assert await client.receive() == (BINARY, bytes(300_000))
        assert first < 50
        assert answered == 100
        await client.send(frame(CLOSE))
        assert await client.receive() == (CLOSE, b"")
