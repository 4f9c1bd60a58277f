"""Two protocols joined in memory; the owner of the line decides which bytes arrive when, and how it is lost.

Bytes that one end writes are first in its transport's buffer, then on their way (at most `capacity`
bytes), then delivered, as far as the owner delivers them. An end whose peer receives nothing has a slow
peer. A delivery never runs inside another, because the connections of a loop share the receive buffer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

__all__ = ["End", "Pair"]

# Bytes that the network takes from a transport before a delivery; about as much as a kernel takes.
CAPACITY = 64 * 1024


class End(asyncio.Transport):
    """An end of the line as its protocol sees it: the transport, and the bytes it has written.

    Attributes:
        on_its_way: Bytes written here and taken by the network, but not yet delivered to the peer.
        tap: Called with every piece of bytes at the moment that it is written here.
        filter: Called with the same afterwards; returns what the network gets of it.
        heard: Called with every piece of bytes just before it is delivered here.
        changed: Called when there may be something new to deliver.
    """

    feeding: ClassVar[set[asyncio.AbstractEventLoop]] = set()

    def __init__(self, protocol: Any, capacity: int, eof: bool, peername: object) -> None:
        super().__init__(extra={"peername": peername, "sockname": ("in memory", "")})
        self.loop = asyncio.get_running_loop()
        self.protocol = protocol
        self.capacity = capacity
        self.peer: End = self
        self.tap: Callable[[bytes], None] | None = None
        self.filter: Callable[[bytes], bytes] | None = None
        self.heard: Callable[[bytes], None] | None = None
        self.changed: Callable[[], None] | None = None
        self.on_its_way = bytearray()
        self.lost = False
        self._buffer = bytearray()
        self._high, self._low = 64 * 1024, 16 * 1024
        self._can_write_eof = eof
        self._writing_paused = False
        self._reading_paused = False
        self._closing = False
        self._eof_written = False
        # The network reports this to this end once all bytes on their way to it were delivered.
        self._fin = False
        self._fin_received = False
        self._reset = False

    # The transport of asyncio

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
        if self.filter is not None:
            data = self.filter(data)
        self._buffer += data
        self._hand_over()
        if len(self._buffer) > self._high and not self._writing_paused:
            self._writing_paused = True
            self.protocol.pause_writing()

    def insert(self, data: bytes) -> None:
        """Let bytes that the filter has kept back follow those that were written."""
        if not self._closing and not self._eof_written:
            self._buffer += data
            self._hand_over()

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
        self._tell()

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
        """Act as a writable socket: the network takes as much as it has room for."""
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
            self.protocol.resume_writing()
        if not self._buffer:
            if self._eof_written:
                self.peer._fin = True
            if self._closing:
                self._lose(None)
        self._tell()

    def _tell(self) -> None:
        if self.changed is not None:
            self.changed()

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
        self._tell()

    def expects(self) -> bool:
        """True if a delivery to this end would have an effect."""
        if self.lost:
            return bool(self.peer.on_its_way)
        if not self.is_reading():
            return False
        return bool(self.peer.on_its_way) or self._reset or self._fin

    def receive(self, size: int) -> int:
        """Do one read of at most `size` bytes, or the end of the line; returns how many bytes were read."""
        arriving = self.peer.on_its_way
        if self.lost:
            if arriving:
                # The process at this end is gone, so its system answers with a reset.
                arriving.clear()
                self.peer._reset = True
                self.loop.call_soon(self.peer._hand_over)
            return 0
        if not self.is_reading():
            return 0
        assert self.loop not in End.feeding, "a delivery from inside a delivery"
        End.feeding.add(self.loop)
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
            End.feeding.discard(self.loop)
        return 0

    def _read(self, arriving: bytearray, size: int) -> int:
        room = self.protocol.get_buffer(-1)
        size = min(size, len(arriving), len(room))
        room[:size] = arriving[:size]
        if self.heard is not None:
            self.heard(bytes(arriving[:size]))
        del arriving[:size]
        # A socket becomes writable in a separate event.
        self.loop.call_soon(self.peer._hand_over)
        self.protocol.buffer_updated(size)
        return size

    def break_off(self) -> None:
        """Make this end find the line broken now, and drop the bytes that were on their way."""
        self.on_its_way.clear()
        self._lose(ConnectionResetError("the line was cut"))

    def die(self) -> None:
        """Let the process at this end vanish: its system sends FIN after the bytes already written."""
        self._lose(None)


class Pair:
    """Two protocols and a line between them."""

    def __init__(
        self,
        server: Any,
        client: Any,
        *,
        capacity: int = CAPACITY,
        eof: bool = True,
        peername: object = ("in memory", "client"),
        begin: bool = True,
    ) -> None:
        self.server = End(server, capacity, eof, peername)
        self.client = End(client, capacity, eof, ("in memory", "server"))
        self.server.peer, self.client.peer = self.client, self.server
        if begin:
            self.begin()

    def begin(self) -> None:
        """Connect both protocols."""
        self.server.protocol.connection_made(self.server)
        self.client.protocol.connection_made(self.client)

    def cut(self) -> None:
        """Reset the line with everything on its way; an idle end does not notice."""
        for end in (self.server, self.client):
            end.on_its_way.clear()
            end._reset = True
            end.loop.call_soon(end._hand_over)

    def deliver_all(self) -> bool:
        """Deliver everything on its way now; False if that was nothing."""
        moved = False
        for end in (self.server, self.client):
            while end.expects():
                end.receive(len(end.peer.on_its_way))
                moved = True
        return moved
