"""A server in memory whose test decides which bytes arrive when; peers of raw bytes for it."""

from __future__ import annotations

import asyncio
import struct
from typing import Any, Self

import sockrpc
from sockrpc.limits import Limits
from sockrpc.peer.peer import Peer
from sockrpc.testing.memory import End, Pair
from sockrpc.websocket.deflate import Compression
from sockrpc.websocket.loop import context_of_running_loop
from tests.kit.endings import ends_the_process
from tests.kit.inside import has_stopped
from tests.kit.support import CLOSE, PATIENCE, SUBPROTOCOL, chosen, frame


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


def set_capacity(end: End, capacity: int) -> None:
    """Change how many bytes the network takes from an end, and let it take them now."""
    end.capacity = capacity
    end._hand_over()


def written_by(end: End) -> bytes:
    """What an end has written and nobody has received, on its way or not."""
    return bytes(end.on_its_way) + bytes(end._buffer)


def has_paused_writing(end: End) -> bool:
    """True while an end has asked its protocol to write no more."""
    return end._writing_paused


def read_though_paused(end: End, data: bytearray) -> None:
    """Deliver a read that was under way when reading was paused."""
    end._read(data, len(data))


def mark_as_lost(end: End) -> None:
    """Lose the line at one end, which has to be told by the caller."""
    end.lost = end._closing = True


class MemoryServer:
    """A server without sockets: as `sockrpc.serve` makes it, but for the listening and the handshake."""

    def __init__(self, app: Any, **limits: Any) -> None:
        # The one seam: what else a test needs of the engine it gets from here.
        self.server, _ = sockrpc.serve(app, port=0, **limits)._make()
        self.service = self.server._service
        self.limits = self.server._limits
        self.pairs: list[Pair] = []

    def join(
        self,
        peer: Any,
        *,
        compression: Compression | None = None,
        protocol: str | None = None,
        **options: Any,
    ) -> Pair:
        """A connection that is past its handshake, with `peer` at its other end.

        It speaks v0.1 unless another `protocol` is named, or a test runs with both.
        """
        connection = Peer("server", self.service)
        pair = Pair(connection, peer, **options)
        self.pairs.append(pair)
        connection.open(b"", compression)
        connection.speak(protocol or (chosen or [SUBPROTOCOL])[0])
        if not connection.is_v1:
            connection.socket._opened(SUBPROTOCOL)
        connection.begin()
        return pair

    def connect(
        self,
        *,
        limits: dict[str, Any] | None = None,
        compressions: tuple[Compression, Compression] | None = None,
        protocol: str | None = None,
        app: sockrpc.App | None = None,
        **options: Any,
    ) -> tuple[sockrpc.Client, Pair]:
        """A client of ours on a new connection; `compressions` are the server's and the client's."""
        dialing = sockrpc.connect("ws://in.memory/", app=app)
        dialing._limits = Limits(**(limits or {}))
        peer = Peer("client", dialing._make_service(context_of_running_loop()))
        theirs, ours = compressions or (None, None)
        pair = self.join(peer, compression=theirs, protocol=protocol, **options)
        peer.open(b"", ours)
        peer.speak(protocol or (chosen or [SUBPROTOCOL])[0])
        peer.begin()
        return sockrpc.Client(peer), pair

    def raw(self, **options: Any) -> tuple[RawEnd, Pair]:
        """A client of raw bytes on a new connection."""
        peer = RawEnd()
        return peer, self.join(peer, **options)

    def has_stopped(self) -> bool:
        return has_stopped(self.server)

    async def settle(self) -> None:
        """Deliver everything, in both directions, until nothing moves any more."""
        quiet = 0
        async with asyncio.timeout(PATIENCE):
            while quiet < 10:
                moved = [pair.deliver_all() for pair in self.pairs]
                quiet = 0 if any(moved) else quiet + 1
                await asyncio.sleep(0)

    async def settle_past(self, error: type[BaseException]) -> None:
        """Do the same where a function of the application ends the process, which does not end here."""
        with ends_the_process(error):
            await self.settle()
        # What it left for later turns, such as a record for the log.
        await self.settle()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.server.close()
        async with asyncio.timeout(PATIENCE):
            while not (self.has_stopped() and all(pair.client.lost for pair in self.pairs)):
                await self.settle()
        await self.server.wait_closed()
