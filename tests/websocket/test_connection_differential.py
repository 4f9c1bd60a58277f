"""Whole connections over sockets against websockets' Sans-I/O protocols, on random streams in random reads.

A server and a client of ours get the bytes that the oracle gets, in as many writes. What they write back must
be what the oracle writes, and what their application sees must be what the oracle receives, but for what
stands above the WebSocket level:

- a text message is closed with 1003 (PROTOCOL.md, Malformed input), one that is not UTF-8 with 1007;
- a binary message that is no frame of the protocol, for that side, is closed with 1002;
- the server answers the calls of the stream, between the pongs and in order;
- in answer to a close frame ours has the code, without the reason; the reason of a fault is our own.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import example, given

import sockrpc
from tests.conftest import what_is_left
from tests.kit.loops import LOOPS, new_event_loop
from tests.kit.pair import take_frames
from tests.kit.properties import examples
from tests.kit.raw_server import Peer, RawServer
from tests.kit.rpc_oracle import read
from tests.kit.streams import LARGE_LIMIT, SMALL_LIMIT, Piece, Role, Stream, broken_streams, ordinary_streams
from tests.kit.support import BINARY, CLOSE, PATIENCE, PONG, Serving, opening, serving, started
from tests.kit.websocket_oracle import theirs, with_one_fault, written_by_theirs

pytestmark = pytest.mark.newest

Wire = list[tuple[int, bytes]]

# The id of the one call that is in flight on a client while its stream arrives.
CALL = 1
STREAMS = ordinary_streams | broken_streams
FIXED = [
    Stream([Piece(9, b"1"), Piece(2, b"\x02\0\0\0\1\4echox"), Piece(9, b"2"), Piece(8, b"\x03\xe8bye")], [3]),
    Stream([Piece(1, b"text"), Piece(9, b"ignored")], []),
    Stream([Piece(2, b"\x01\4note1"), Piece(2, b"\x04\0\0\0\1done"), Piece(2, b"\x01\4note2")], [1, 20]),
    Stream([Piece(9, b"x", final=False)], [1]),
    Stream([Piece(2, bytes(301)), Piece(9, b"ignored")], [2]),
]


@dataclass
class Expected:
    """What a connection should do with a stream."""

    wire: Wire = field(default_factory=list)
    notes: list[bytes] = field(default_factory=list)
    answer: bytes | None = None
    is_fault: bool = False

    def close(self, code: int, *, is_fault: bool = True) -> None:
        self.is_fault = is_fault
        self.wire.append((CLOSE, b"" if code == 1005 else struct.pack("!H", code)))


def expect(role: Role, stream: Stream) -> Expected:
    """What the oracle receives, and what the protocol says about it."""
    whole = replace(stream, pieces=[with_one_fault(piece) for piece in stream.pieces])
    reads = whole.reads(whole.to(role))
    events = theirs(role, reads, stream.limit)
    expected = Expected()
    for kind, payload in events:
        if kind == "ping":
            expected.wire.append((PONG, payload))
        elif kind in ("close", "fault"):
            expected.close(int.from_bytes(payload[:2], "big"), is_fault=kind == "fault")
        elif kind == "text":
            expected.close(1003)
        elif kind == "binary":
            take_message(role, payload, expected)
        if expected.wire and expected.wire[-1][0] == CLOSE:
            break
    # The pongs are those that websockets writes itself; it does not know what ends it above its level.
    pongs = [frame for frame in written_by_theirs(role, reads) if frame[0] == PONG]
    mine = [frame for frame in expected.wire if frame[0] == PONG]
    assert pongs[: len(mine)] == mine
    return expected


def take_message(role: Role, message: bytes, expected: Expected) -> None:
    match read(message, role):
        case str():
            expected.close(1002)
        case ("notify", "note", payload):
            expected.notes.append(payload)
        case ("request", id, "echo", payload):
            expected.wire.append((BINARY, b"\x04" + struct.pack("!I", id) + payload))
        case ("response", id, payload) if id == CALL and expected.answer is None:
            expected.answer = payload


class Bench:
    """A loop on which one example after another runs, each on connections of its own."""

    def __init__(self, kind: str) -> None:
        self.loop = new_event_loop(kind)
        self.unexpected: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.unexpected.append(context))
        self.notes: list[bytes] = []
        self.servers: dict[int, Serving] = {}
        self.raw_server = RawServer()
        self.stack = contextlib.AsyncExitStack()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(coroutine)

    async def start(self) -> None:
        app = sockrpc.App()
        app.method("echo")(lambda call: call.payload)
        app.on("note")(lambda notification: self.notes.append(notification.payload))
        for limit in (SMALL_LIMIT, LARGE_LIMIT):
            self.servers[limit] = await self.stack.enter_async_context(serving(app, max_message_bytes=limit))
        await self.stack.enter_async_context(self.raw_server)

    async def to_server(self, stream: Stream) -> None:
        """Play a stream to a server."""
        expected = expect("server", stream)
        self.notes.clear()
        line = socket.create_connection(("127.0.0.1", self.servers[stream.limit].port))
        with line:
            line.setblocking(False)
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(PATIENCE):
                await self.loop.sock_sendall(line, opening())
                received = bytearray()
                while b"\r\n\r\n" not in received:
                    received += await self.loop.sock_recv(line, 65536)
                head, _, rest = bytes(received).partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 101 ")
                received = bytearray(rest)
                # Whoever has closed need not read on.
                with contextlib.suppress(ConnectionError):
                    for each in stream.reads(stream.to("server")):
                        await self.loop.sock_sendall(line, each)
                        await turn()
                    # ENOTCONN, which follows a reset, is no ConnectionError.
                    with contextlib.suppress(OSError):
                        line.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionError):
                    while more := await self.loop.sock_recv(line, 65536):
                        received += more
        check_wire(received, expected)
        assert self.notes == expected.notes

    async def to_client(self, stream: Stream) -> None:
        """Play a stream to a client."""
        expected = expect("client", stream)
        client, peer = await self.raw_server.client(max_message_bytes=stream.limit, ping_interval=None)
        calling = await started(client.call("method"))
        assert await peer.request() == CALL
        notes = client.on("note")
        received = bytearray()
        reading = asyncio.ensure_future(read_all(peer, received))
        for each in stream.reads(stream.to("client")):
            peer.writer.write(each)
            await turn()
        with contextlib.suppress(OSError):
            peer.writer.write_eof()
        await peer.wait(reading)
        await peer.finish()
        check_wire(received, expected)
        heard: list[bytes] = []
        with contextlib.suppress(sockrpc.ConnectionLost, sockrpc.ProtocolError):
            while True:
                heard.append(await peer.wait(anext(notes)))
        assert heard == expected.notes
        if expected.answer is not None:
            assert await peer.wait(calling) == expected.answer
        else:
            with pytest.raises((sockrpc.ConnectionLost, sockrpc.ProtocolError)):
                await peer.wait(calling)
        await peer.wait(client.close())
        self.raw_server.peers.remove(peer)


async def turn() -> None:
    """Let the other side, which is in this very loop, read what was written."""
    for _ in range(2):
        await asyncio.sleep(0)


async def read_all(peer: Peer, received: bytearray) -> None:
    while more := await peer.reader.read(65536):
        received += more


def check_wire(received: bytearray, expected: Expected) -> None:
    frames = take_frames(received)
    assert not received, "half a frame was written"
    if expected.is_fault and frames and frames[-1][0] == CLOSE:
        code, reason = frames[-1][1][:2], frames[-1][1][2:]
        assert reason.decode(), "the reason names the fault"
        frames[-1] = CLOSE, code
    assert frames == expected.wire


@contextlib.contextmanager
def bench(kind: str) -> Iterator[Bench]:
    """A bench that leaves nothing behind."""
    here = Bench(kind)
    try:
        asyncio.set_event_loop(here.loop)
        here.run(here.start())
        try:
            yield here
        finally:
            here.run(here.stack.aclose())
        left = here.run(what_is_left())
    finally:
        asyncio.set_event_loop(None)
        here.loop.close()
    assert not here.unexpected, f"exceptions reached the loop's handler: {here.unexpected}"
    assert not left, f"tasks were left behind: {left}"


def try_streams(play: Callable[[Stream], Any], here: Bench) -> None:
    """Try many streams, one after the other, among them the fixed ones."""

    @examples(70)
    @given(stream=STREAMS)
    def property(stream: Stream) -> None:
        # What breaks off tells nothing here: its end is the end of the line.
        here.run(play(replace(stream, lost=0)))

    for stream in FIXED:
        property = example(stream=stream)(property)
    property()


@pytest.mark.parametrize("kind", LOOPS)
def test_a_server_does_what_the_oracle_does(kind: str) -> None:
    with bench(kind) as here:
        try_streams(here.to_server, here)


@pytest.mark.parametrize("kind", LOOPS)
def test_a_client_does_what_the_oracle_does(kind: str) -> None:
    with bench(kind) as here:
        try_streams(here.to_client, here)
