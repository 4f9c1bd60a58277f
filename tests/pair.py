"""Two protocols joined in memory: the test decides which bytes arrive when, and how the line is lost.

What one end writes is first in its transport's buffer, then on its way (at most `capacity` bytes), then
delivered, as far as the test delivers it. An end whose peer gets nothing delivered has a slow peer.
Nothing is delivered from inside a delivery: the receive buffer of a loop is shared.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterable
from typing import Any, Self

import sockrpc
from sockrpc._loop import context_of_running_loop
from sockrpc._names import NameTable
from sockrpc._output import Settings
from sockrpc._service import Service
from sockrpc.limits import Limits
from sockrpc.protocols import ClientProtocol, ServerProtocol
from sockrpc.server import Server
from sockrpc.sockets import Hooks, Socket
from sockrpc.threads import WorkerThreads
from tests.support import CLOSE, PATIENCE, SUBPROTOCOL, frame

# What the network takes from a transport before a byte is delivered; about what a kernel takes.
CAPACITY = 64 * 1024


class End(asyncio.Transport):
    """One end of the line, as its protocol sees it: the transport, and what it has written.

    Attributes:
        on_its_way: Written here, taken by the network, not yet delivered to the peer.
        tap: Called with every piece of bytes that is written here, at that moment.
        heard: Called with every piece of bytes that is delivered here, just before.
    """

    feeding = False

    def __init__(self, protocol: Any, capacity: int, eof: bool, name: str) -> None:
        super().__init__(extra={"peername": ("in memory", name), "sockname": ("in memory", "")})
        self.loop = asyncio.get_running_loop()
        self.protocol = protocol
        self.capacity = capacity
        self.peer: End = self
        self.tap: Callable[[bytes], None] | None = None
        self.heard: Callable[[bytes], None] | None = None
        self.on_its_way = bytearray()
        self.lost = False
        self._buffer = bytearray()
        self._high, self._low = 64 * 1024, 16 * 1024
        self._can_write_eof = eof
        self._writing_paused = False
        self._reading_paused = False
        self._closing = False
        self._eof_written = False
        # What the network will tell this end once all bytes on their way to it were delivered.
        self._fin = False
        self._fin_received = False
        self._reset = False

    # What asyncio promises to a protocol

    def can_write(self) -> bool:
        return not self._closing and not self._eof_written

    def write(self, data: Any) -> None:
        data = bytes(data)
        if self._eof_written:
            raise RuntimeError("write after write_eof")
        if self._closing:
            raise AssertionError("written after close")
        if self._reset:
            self._lose(ConnectionResetError("the line was cut"))
            return
        if self.tap is not None:
            self.tap(data)
        self._buffer += data
        self._hand_over()
        if len(self._buffer) > self._high and not self._writing_paused:
            self._writing_paused = True
            self.protocol.pause_writing()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return self._can_write_eof

    def write_eof(self) -> None:
        assert self._can_write_eof
        assert not self._closing, "write_eof after close"
        self._eof_written = True
        self._hand_over()

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._hand_over()

    def abort(self) -> None:
        self._lose(None)

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._reading_paused = True

    def resume_reading(self) -> None:
        self._reading_paused = False

    def is_reading(self) -> bool:
        return not self._closing and not self._reading_paused and not self._fin_received

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high is not None
        assert low is not None
        assert high >= low >= 0
        self._high, self._low = high, low

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        return len(self._buffer)

    def get_protocol(self) -> Any:
        return self.protocol

    # The network

    def _hand_over(self) -> None:
        """What a writable socket is for: the network takes as much as it has room for."""
        if self.lost:
            return
        if self._reset and self._buffer:
            self._lose(ConnectionResetError("the line was cut"))
            return
        room = self.capacity - len(self.on_its_way)
        if room > 0 and self._buffer:
            self.on_its_way += self._buffer[:room]
            del self._buffer[:room]
        if self._writing_paused and len(self._buffer) <= self._low:
            self._writing_paused = False
            # It may write.
            self.protocol.resume_writing()
        if not self._buffer:
            if self._eof_written:
                self.peer._fin = True
            if self._closing:
                self._lose(None)

    def _lose(self, error: Exception | None) -> None:
        if self.lost:
            return
        self.lost = self._closing = True
        self._buffer.clear()
        if self.peer.on_its_way:
            # A system that closes a socket over unread bytes sends a reset.
            self.peer._reset = True
        else:
            self.peer._fin = True
        self.loop.call_soon(self.protocol.connection_lost, error)

    def expects(self) -> bool:
        """True if a delivery to this end would have an effect."""
        if self.lost:
            return bool(self.peer.on_its_way)
        if not self.is_reading():
            return False
        return bool(self.peer.on_its_way) or self._reset or self._fin

    def receive(self, size: int) -> int:
        """One read of at most `size` bytes, or the end of the line; returns how many bytes were read."""
        arriving = self.peer.on_its_way
        if self.lost:
            if arriving:
                # Nobody is there any more: the system answers with a reset.
                arriving.clear()
                self.peer._reset = True
                self.loop.call_soon(self.peer._hand_over)
            return 0
        if not self.is_reading():
            return 0
        assert not End.feeding, "a delivery from inside a delivery"
        End.feeding = True
        try:
            if arriving:
                return self._read(arriving, size)
            if self._reset:
                self._lose(ConnectionResetError("the line was cut"))
            elif self._fin:
                self._fin_received = True
                if not self.protocol.eof_received():
                    self.close()
        finally:
            End.feeding = False
        return 0

    def _read(self, arriving: bytearray, size: int) -> int:
        room = self.protocol.get_buffer(-1)
        size = min(size, len(arriving), len(room))
        room[:size] = arriving[:size]
        if self.heard is not None:
            self.heard(bytes(arriving[:size]))
        del arriving[:size]
        # A socket becomes writable in an event of its own.
        self.loop.call_soon(self.peer._hand_over)
        self.protocol.buffer_updated(size)
        return size

    def die(self) -> None:
        """The process at this end is gone, without a word: its system sends FIN after what it has taken."""
        self._lose(None)


class Pair:
    """Two protocols with a line between them."""

    def __init__(
        self, server: Any, client: Any, *, capacity: int = CAPACITY, eof: bool = True, name: str = ""
    ) -> None:
        self.server = End(server, capacity, eof, f"client {name}")
        self.client = End(client, capacity, eof, "server")
        self.server.peer, self.client.peer = self.client, self.server
        server.connection_made(self.server)
        client.connection_made(self.client)

    def cut(self) -> None:
        """Reset the line, with all that is on its way; who neither reads nor writes does not notice."""
        for end in (self.server, self.client):
            end.on_its_way.clear()
            end._reset = True
            end.loop.call_soon(end._hand_over)

    def deliver_all(self) -> bool:
        """Deliver what is on its way now; False if that was nothing."""
        moved = False
        for end in (self.server, self.client):
            while end.expects():
                end.receive(len(end.peer.on_its_way))
                moved = True
        return moved


class RawEnd(asyncio.BufferedProtocol):
    """A peer that writes what the test says and takes apart what it gets, by RFC 6455 alone.

    By itself it does nothing but answer a close frame.
    """

    def __init__(self) -> None:
        self.transport: Any = None
        self.frames: list[tuple[int, bytes]] = []
        self.ended = False
        self._room = bytearray(64 * 1024)
        self._rest = bytearray()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> Any:
        return memoryview(self._room)

    def buffer_updated(self, nbytes: int) -> None:
        self._rest += self._room[:nbytes]
        frames = take_frames(self._rest)
        self.frames += frames
        if any(opcode == CLOSE for opcode, _ in frames) and self.transport.can_write():
            self.send(frame(CLOSE))

    def eof_received(self) -> bool:
        self.ended = True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        pass

    def send(self, *data: bytes) -> None:
        self.transport.write(b"".join(data))

    @property
    def answers(self) -> list[tuple[int, bytes]]:
        """Ids and payloads of the responses received so far."""
        return [(struct.unpack("!I", data[1:5])[0], data[5:]) for kind, data in self.frames if kind == 2]


def take_frames(data: bytearray) -> list[tuple[int, bytes]]:
    """Take the whole frames out of `data`: opcode and payload of each, unmasked (RFC 6455 5.2)."""
    frames = []
    while len(data) >= 2:
        size, at = data[1] & 0x7F, 2
        if size == 126:
            size, at = int.from_bytes(data[2:4], "big"), 4
        elif size == 127:
            size, at = int.from_bytes(data[2:10], "big"), 10
        masked = data[1] & 0x80
        at += 4 if masked else 0
        if len(data) < at + size:
            break
        mask = bytes(data[at - 4 : at])
        payload = bytes(data[at : at + size])
        if masked:
            key = (mask * (size // 4 + 1))[:size]
            payload = (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
        assert data[0] & 0xF0 == 0x80, "a fragment or reserved bits"
        frames.append((data[0] & 0x0F, payload))
        del data[: at + size]
    return frames


class MemoryServer:
    """A server without sockets: as `sockrpc.serve` makes it, but for the listening and the handshake."""

    def __init__(self, app: Any, **limits: Any) -> None:
        self.context = context_of_running_loop()
        self.limits = Limits(**limits)
        self.pairs: list[Pair] = []
        methods: NameTable | None = None
        events: NameTable | None = None
        if isinstance(app, sockrpc.App):
            methods, events = app._tables()
            hooks = app._hooks()
        else:
            hooks = Hooks(handle_socket=app)
        self.service = Service(
            Settings(self.limits),
            self.context,
            methods,
            events,
            threads=WorkerThreads(self.context.loop, self.limits.max_threads),
            make_socket=lambda connection: Socket(connection, hooks),
        )
        self.server = Server(self.service, self.context, self.limits)

    def join(self, peer: Any, **options: Any) -> Pair:
        """A connection that is past its handshake, with `peer` at its other end."""
        connection = ServerProtocol(self.service)
        pair = Pair(connection, peer, name=str(len(self.pairs)), **options)
        self.pairs.append(pair)
        connection.open(b"")
        connection.socket._opened(SUBPROTOCOL)
        connection.begin()
        return pair

    def connect(self, *, limits: dict[str, Any] | None = None, **options: Any) -> tuple[sockrpc.Client, Pair]:
        """A client of ours on a new connection."""
        peer = ClientProtocol(Settings(Limits(**(limits or {}))), self.context)
        pair = self.join(peer, **options)
        peer.open(b"")
        peer.begin()
        return sockrpc.Client(peer), pair

    def raw(self, **options: Any) -> tuple[RawEnd, Pair]:
        """A client of raw bytes on a new connection."""
        peer = RawEnd()
        return peer, self.join(peer, **options)

    def has_stopped(self) -> bool:
        return self.server._stopping is not None and self.server._stopping.done()

    async def settle(self) -> None:
        """Deliver everything, in both directions, until nothing moves any more."""
        quiet = 0
        async with asyncio.timeout(PATIENCE):
            while quiet < 10:
                moved = [pair.deliver_all() for pair in self.pairs]
                quiet = 0 if any(moved) else quiet + 1
                await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.server.close()
        async with asyncio.timeout(PATIENCE):
            while not (self.has_stopped() and all(pair.client.lost for pair in self.pairs)):
                await self.settle()
        await self.server.wait_closed()
