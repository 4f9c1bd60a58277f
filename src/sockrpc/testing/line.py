"""A line in memory that delivers by itself, unless one of its directions is held."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from sockrpc.testing.memory import End, Pair

__all__ = ["Direction", "Line"]

BLANK_LINE = b"\r\n\r\n"


class Frames:
    """Finds the ends of the WebSocket frames of one direction (RFC 6455 5.2) after its handshake.

    Attributes:
        ends: The positions of frame ends, in bytes from the beginning of the direction.
    """

    def __init__(self) -> None:
        self.ends: deque[int] = deque()
        self._rest = bytearray()
        self._taken = 0
        self._is_head = True

    def add(self, data: bytes) -> None:
        """Add written bytes."""
        self._rest += data
        while size := self._next_size():
            del self._rest[:size]
            self._taken += size
            if not self._is_head:
                self.ends.append(self._taken)
            self._is_head = False

    def _next_size(self) -> int:
        """Return the size of the next frame; 0 if it is unknown, or the frame is incomplete."""
        rest = self._rest
        if self._is_head:
            return rest.find(BLANK_LINE) + len(BLANK_LINE) if BLANK_LINE in rest else 0
        if len(rest) < 2:
            return 0
        at, size = 2, rest[1] & 0x7F
        if size >= 126:
            at += 2 if size == 126 else 8
            size = int.from_bytes(rest[2:at], "big")
        at += 4 if rest[1] & 0x80 else 0
        return at + size if len(rest) >= at + size else 0


class Direction:
    """A direction of a line, which can be held and delivered frame by frame.

    `sockrpc.testing` makes them as `to_server` and `to_client` of a client.
    """

    def __init__(self, line: Line, sender: End, receiver: End) -> None:
        self._line = line
        self._sender = sender
        self._receiver = receiver
        self._frames = Frames()
        self._delivered = 0
        # The end of the last frame that was delivered completely.
        self._last_end = 0
        self._up_to: int | None = None
        sender.tap = self._frames.add
        for end in (sender, receiver):
            end.changed = line.wake

    @property
    def held(self) -> int:
        """The number of whole frames that are held; pings, pongs and close frames count too."""
        up_to = self._up_to
        return 0 if up_to is None else sum(end > up_to for end in self._frames.ends)

    def hold(self) -> None:
        """Hold everything sent from now on, the end of the connection included.

        A frame that the peer has received in part is still delivered. The sender notices only that its peer
        takes nothing more after 64 KiB.
        """
        if self._up_to is None:
            self._forget()
            begun = self._frames.ends and self._delivered > self._last_end
            self._up_to = self._frames.ends[0] if begun else self._delivered

    def deliver(self, count: int = 1) -> int:
        """Release the `count` oldest of the held frames and hold the rest; returns how many were released.

        They arrive in the next turns of the loop; see `MemoryClient.settle`.
        """
        if self._up_to is None:
            return 0
        up_to = self._up_to
        going = [end for end in self._frames.ends if end > up_to][: max(count, 0)]
        if going:
            self._up_to = going[-1]
            self._line.wake()
        return len(going)

    def release(self) -> None:
        """Release everything and stop holding."""
        self._up_to = None
        self._line.wake()

    # For the line

    def _forget(self) -> None:
        ends = self._frames.ends
        while ends and ends[0] <= self._delivered:
            self._last_end = ends.popleft()

    def _deliver(self) -> bool:
        """Deliver as much as is allowed; False if that was nothing."""
        receiver = self._receiver
        if self._up_to is not None and not receiver.lost:
            room = min(self._up_to - self._delivered, len(self._sender.on_its_way))
            if room <= 0 or not receiver.expects():
                return False
        elif receiver.expects():
            room = len(self._sender.on_its_way)
        else:
            return False
        self._delivered += receiver.receive(room)
        self._forget()
        return True


class Line:
    """Two protocols and a line between them that delivers by itself.

    Each delivery has a turn of the loop to itself, so it never runs inside other code.
    """

    def __init__(self, server: Any, client: Any, peername: object) -> None:
        self._loop = asyncio.get_running_loop()
        self._is_awake = False
        self.pair: Pair = Pair(server, client, peername=peername, begin=False)
        self.to_server = Direction(self, self.pair.client, self.pair.server)
        self.to_client = Direction(self, self.pair.server, self.pair.client)
        self.pair.begin()

    def wake(self) -> None:
        """Look for something to deliver in the next turn."""
        if not self._is_awake:
            self._is_awake = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._is_awake = False
        moved = [direction._deliver() for direction in (self.to_server, self.to_client)]
        if any(moved):
            self.wake()

    @property
    def is_quiet(self) -> bool:
        """True if nothing is on its way except held bytes."""
        return not self._is_awake

    def lose(self) -> None:
        """Break the line: both ends notice, and everything on its way, held or not, is gone."""
        for end in (self.pair.server, self.pair.client):
            end.break_off()
