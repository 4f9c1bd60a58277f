"""Endings towards slow readers, who get everything if they read on; and lines that are dead already."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

import sockrpc
from sockrpc.peer.peer import Peer
from tests.kit.inside import begin_close, working
from tests.kit.narrow import narrow_socket, serving_narrowly
from tests.kit.pair import MemoryServer
from tests.kit.raw_server import RawServer
from tests.kit.support import CLOSE, PATIENCE, PING, cut, frame, opening, request, serving, until
from tests.kit.tls import client_context, server_context

pytestmark = pytest.mark.outside

PAGE = bytes(range(256)) * 9_000  # 2.3 MB, which take as many seconds
# All of it takes longer where the machine is slower, too.
PAUSE = 0.003 * PATIENCE
STEP = 30_000
# Longer than a client's TLS takes to get rid of the 256 KiB that it holds, in which nothing is seen to leave.
CLOSE_TIMEOUT = 0.08 * PATIENCE

secure = pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])


def page(socket: sockrpc.Socket, request: Request) -> Response | None:
    return Response(200, "OK", Headers(), PAGE) if request.path == "/page" else None


def answering() -> sockrpc.App:
    app = sockrpc.App()

    @app.method("last")
    async def last(call: sockrpc.Call) -> None:
        await call.respond(PAGE)
        asyncio.get_running_loop().call_soon(begin_close, call.socket, 1000, "that was all")

    return app


@contextlib.asynccontextmanager
async def slow_line(secure: bool) -> AsyncIterator[tuple[Any, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A server with little room in the system's buffers, and a line to it that holds little too."""
    options: dict[str, Any] = {"ssl": server_context()} if secure else {}
    tls: dict[str, Any] = {"ssl": client_context(), "server_hostname": "127.0.0.1"} if secure else {}
    async with serving_narrowly(
        answering(), process_request=page, close_timeout=CLOSE_TIMEOUT, **options
    ) as here:
        line = narrow_socket()
        line.setblocking(False)
        await asyncio.get_running_loop().sock_connect(line, ("127.0.0.1", here.port))
        reader, writer = await asyncio.open_connection(sock=line, limit=4096, **tls)
        try:
            yield here, reader, writer
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def read_slowly(reader: asyncio.StreamReader) -> bytes:
    received = bytearray()
    while data := await reader.read(STEP):
        received += data
        await asyncio.sleep(PAUSE * len(data) / STEP)
    return bytes(received)


@secure
async def test_a_page_arrives_whole_however_long_its_reader_takes(secure: bool) -> None:
    async with slow_line(secure) as (here, reader, writer), asyncio.timeout(3 * PATIENCE):
        loop = asyncio.get_running_loop()
        writer.write(b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n")
        began = loop.time()
        head, _, body = (await read_slowly(reader)).partition(b"\r\n\r\n")
        assert loop.time() - began > 2 * CLOSE_TIMEOUT
        assert head.startswith(b"HTTP/1.1 200 ")
        assert body == PAGE
        await until(lambda: not working(here.server))


async def test_what_tls_has_encrypted_is_seen_to_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its transport does not tell of it; the reader takes some of it at a time, and long pauses between.
    monkeypatch.setattr("tests.websocket.test_closing_slowly.PAUSE", 3 * PAUSE)
    monkeypatch.setattr("tests.websocket.test_closing_slowly.CLOSE_TIMEOUT", 3 * CLOSE_TIMEOUT)
    async with slow_line(True) as (_, reader, writer), asyncio.timeout(6 * PATIENCE):
        writer.write(b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await read_slowly(reader)).endswith(PAGE)


@secure
async def test_an_answer_before_the_close_frame_arrives_whole(secure: bool) -> None:
    async with slow_line(secure) as (here, reader, writer), asyncio.timeout(3 * PATIENCE):
        writer.write(opening() + request(1, "last"))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        reading = asyncio.ensure_future(read_slowly(reader))
        await until(lambda: not here.server.connections)
        received = await reading
        closing = frame(CLOSE, struct.pack("!H", 1000) + b"that was all", masked=False)
        assert received.endswith(closing)
        assert received[: -len(closing)].endswith(PAGE)


@secure
async def test_who_stops_reading_is_let_go_after_close_timeout(secure: bool) -> None:
    async with slow_line(secure) as (here, reader, writer):
        loop = asyncio.get_running_loop()
        writer.write(b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await reader.readexactly(10)
        began = loop.time()
        await until(lambda: not working(here.server))
        # The client of asyncio reads a little more by itself; TLS keeps 256 KiB.
        assert loop.time() - began < 10 * CLOSE_TIMEOUT


async def test_a_stop_waits_no_longer_than_its_graces_for_a_slow_reader() -> None:
    async with (
        serving_narrowly(answering(), close_timeout=60.0, stop_grace=0.3, abort_grace=0.3) as here,
        await here.narrow_raw() as raw,
    ):
        loop = asyncio.get_running_loop()
        await raw.send(request(1, "last"))
        await until(lambda: not here.server.connections)
        began = loop.time()
        reading = asyncio.ensure_future(read_slowly(raw.reader))
        here.server.close()
        await here.server.wait_closed()
        assert loop.time() - began < PATIENCE / 4
        reading.cancel()


# Lines that are dead already


async def test_many_who_leave_a_full_server_at_once_are_no_exceptions() -> None:
    # What a handler of the loop is told of fails the test.
    async with serving(sockrpc.App(), max_connections=1) as here, here.connect():
        for n in range(200):
            line = socket.create_connection(("127.0.0.1", here.port))
            if n % 2:
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            line.close()
            if n % 8 == 0:
                await asyncio.sleep(0)
        await until(lambda: len(working(here.server)) == 1)
        assert len(here.server.connections) == 1


@secure
@pytest.mark.parametrize("what", ["a bad frame", "a bad request", "a body", "a close frame"])
async def test_who_breaks_the_protocol_and_is_gone_is_no_exception(what: str, secure: bool) -> None:
    data = {
        "a bad frame": opening() + b"\x82\x01\x09",
        "a bad request": b"\0" * 1000,
        "a body": b"POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\nx",
        "a close frame": opening() + frame(CLOSE, struct.pack("!H", 1000)) + frame(PING, b"x"),
    }[what]
    options: dict[str, Any] = {"ssl": server_context()} if secure else {}
    tls: dict[str, Any] = {"ssl": client_context(), "server_hostname": "127.0.0.1"} if secure else {}
    async with serving(sockrpc.App(), **options) as here:
        for n in range(40):
            _, writer = await asyncio.open_connection("127.0.0.1", here.port, **tls)
            writer.write(data)
            if n % 2:
                cut(writer)
            else:
                writer.transport.abort()
        await until(lambda: not working(here.server))


async def test_a_server_that_sends_a_bad_frame_and_is_gone_is_no_exception() -> None:
    async with RawServer() as server:
        for _ in range(20):
            connecting = asyncio.ensure_future(connect_and_lose(server.uri))
            peer = await server.accept(then=b"\x82\x01\x09")
            peer.writer.transport.abort()
            await peer.wait(connecting)


async def connect_and_lose(uri: str) -> None:
    with contextlib.suppress(sockrpc.SockRPCError, OSError):
        async with sockrpc.connect(uri) as client:
            await client.wait_closed()


class Dead:
    """As the transports of asyncio and of uvloop are when their socket has gone under them."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def __getattr__(self, name: str) -> Any:
        def method(*arguments: object) -> None:
            # A new one each time: what has been raised keeps the frames that it went through.
            raise type(self.error)(*self.error.args)

        return method


@pytest.mark.parametrize(
    "error",
    [OSError(107, "not connected"), RuntimeError("the handler is closed"), AttributeError("None has none")],
    ids=repr,
)
async def test_what_a_dead_transport_raises_reaches_nobody(error: Exception) -> None:
    async with MemoryServer(sockrpc.App()) as here:
        for end in ("close", "refuse", "abort", "nothing"):
            connection = Peer("server", here.service)
            connection.connection_made(Dead(error))
            connection.hold_handshake(True)
            connection.hold_handshake(False)
            if end == "refuse":
                connection.refuse(b"", 1000)
            elif end == "close":
                connection.close(1000, "")
            elif end == "abort":
                connection.abort("any")
            connection.eof_received()
            connection.connection_lost(None)
        assert not here.service.working
