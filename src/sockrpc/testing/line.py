"""A line in memory that delivers by itself, unless one of its directions is held."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from sockrpc.testing.memory import End, Pair

__all__ = ["Direction", "Line"]

BLANK_LINE = b"\r\n\r\n"
# RFC 6455 5.2, without compression.
FINAL_BINARY = 0x82
# PROTOCOL.md
CREDIT = 8


class Frames:
    """Finds the WebSocket frames of one direction (RFC 6455 5.2) after its handshake, and keeps some back.

    Attributes:
        ends: The positions of frame ends, in bytes from the beginning of what passes.
        passed: Bytes that have passed.
        kept: Whole frames that were kept back.
        keeps_credit: True while Credit frames of `sockrpc.v1` are kept back. Frames pass whole then.
    """

    def __init__(self) -> None:
        self.ends: deque[int] = deque()
        self.passed = 0
        self.kept: list[bytes] = []
        self.keeps_credit = False
        self._rest = bytearray()
        # Bytes at the beginning of the rest that have passed.
        self._begun = 0
        self._is_head = True

    def add(self, data: bytes) -> bytes:
        """Take written bytes, and return those that pass."""
        self._rest += data
        passing = bytearray()
        while size := self._next_size():
            frame = bytes(self._rest[:size])
            del self._rest[:size]
            if self.keeps_credit and not self._begun and not self._is_head and is_credit(frame):
                self.kept.append(frame)
                continue
            passing += frame[self._begun :]
            self._begun = 0
            if not self._is_head:
                self.ends.append(self.passed + len(passing))
            self._is_head = False
            if not self.keeps_credit:
                passing += self._kept_frames(len(passing))
        if not self.keeps_credit:
            passing += self._rest[self._begun :]
            self._begun = len(self._rest)
        self.passed += len(passing)
        return bytes(passing)

    def take_kept(self) -> bytes:
        """Keep nothing back any more, and return what passes now; behind a frame that has begun, nothing."""
        self.keeps_credit = False
        passing = b"" if self._begun else self._kept_frames(0) + bytes(self._rest)
        if not self._begun:
            self._begun = len(self._rest)
        self.passed += len(passing)
        return passing

    def _kept_frames(self, before: int) -> bytes:
        kept, self.kept = self.kept, []
        for frame in kept:
            before += len(frame)
            self.ends.append(self.passed + before)
        return b"".join(kept)

    def _next_size(self) -> int:
        """Return the size of the next frame; 0 if it is unknown, or the frame is incomplete."""
        rest = self._rest
        if self._is_head:
            return rest.find(BLANK_LINE) + len(BLANK_LINE) if BLANK_LINE in rest else 0
        at = header_size(rest)
        size = rest[1] & 0x7F if at else 0
        if size >= 126:
            size = int.from_bytes(rest[2 : 4 if size == 126 else 10], "big")
        return at + size if at and len(rest) >= at + size else 0


def header_size(frame: bytes | bytearray) -> int:
    """Return the size of the header of a WebSocket frame; 0 if it is incomplete."""
    if len(frame) < 2:
        return 0
    size = 2 + {126: 2, 127: 8}.get(frame[1] & 0x7F, 0) + (4 if frame[1] & 0x80 else 0)
    return size if len(frame) >= size else 0


def is_credit(frame: bytes) -> bool:
    """True for a whole WebSocket frame that is an uncompressed Credit frame of `sockrpc.v1`."""
    at = header_size(frame)
    if frame[0] != FINAL_BINARY or len(frame) == at:
        return False
    opcode = frame[at] ^ (frame[at - 4] if frame[1] & 0x80 else 0)
    return opcode == CREDIT


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
        self._delay = 0.0
        # Loop times, and the positions of the bytes that may not be delivered before.
        self._due: deque[tuple[float, int]] = deque()
        sender.filter = self._pass
        for end in (sender, receiver):
            end.changed = line.wake

    @property
    def held(self) -> int:
        """The number of whole frames that are held; pings, pongs and close frames count too."""
        up_to = self._up_to
        return 0 if up_to is None else sum(end > up_to for end in self._frames.ends)

    @property
    def held_credit(self) -> int:
        """The number of Credit frames that `hold_credit` holds."""
        return len(self._frames.kept)

    def hold_credit(self) -> None:
        """Hold the Credit frames of `sockrpc.v1` that are sent from now on, while everything else passes.

        The sender of items in the other direction stops when its credit is used up, as with a peer that takes
        none. A call may end meanwhile; credit that comes after its end is ignored. Compressed frames pass.
        """
        self._frames.keeps_credit = True

    def release_credit(self) -> None:
        """Release the Credit frames and hold none from now on."""
        data = self._frames.take_kept()
        if data:
            self._note(len(data))
            self._sender.insert(data)

    def delay(self, seconds: float) -> None:
        """Let what is sent from now on arrive so many seconds later, by the loop's clock; 0 for at once.

        Nothing overtakes: what was sent before keeps its time. The end of the connection follows its last
        bytes.
        """
        self._delay = seconds

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
        """Release everything, credit too, and stop holding; what is delayed keeps its time."""
        self._up_to = None
        self.release_credit()
        self._line.wake()

    # For the line

    def _pass(self, data: bytes) -> bytes:
        """Take bytes that the sender writes, and return those that are on their way now."""
        passing = self._frames.add(data)
        if passing:
            self._note(len(passing))
        return passing

    def _note(self, size: int) -> None:
        """Note the time of bytes that have just passed."""
        if self._delay:
            self._due.append((self._line.time() + self._delay, self._frames.passed - size))

    def _next_time(self) -> float | None:
        """Return the loop time at which delayed bytes may be delivered; None if none wait for it."""
        while self._due and self._due[0][0] <= self._line.time():
            self._due.popleft()
        if not self._due or (self._up_to is not None and self._due[0][1] >= self._up_to):
            return None
        return self._due[0][0]

    def _forget(self) -> None:
        ends = self._frames.ends
        while ends and ends[0] <= self._delivered:
            self._last_end = ends.popleft()

    def _deliver(self) -> bool:
        """Deliver as much as is allowed; False if that was nothing."""
        receiver = self._receiver
        limits = [] if self._up_to is None else [self._up_to]
        if (when := self._next_time()) is not None:
            limits.append(self._due[0][1])
            self._line.wake_at(when)
        if limits and not receiver.lost:
            room = min(min(limits) - self._delivered, len(self._sender.on_its_way))
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
        self._timer: asyncio.TimerHandle | None = None
        self.pair: Pair = Pair(server, client, peername=peername, begin=False)
        self.to_server = Direction(self, self.pair.client, self.pair.server)
        self.to_client = Direction(self, self.pair.server, self.pair.client)
        self.pair.begin()

    def wake(self) -> None:
        """Look for something to deliver in the next turn."""
        if not self._is_awake:
            self._is_awake = True
            self._loop.call_soon(self._turn)

    def wake_at(self, when: float) -> None:
        """Look for something to deliver at a time of the loop's clock."""
        if self._timer is None or self._timer.cancelled() or self._timer.when() > when:
            self._stop_timer()
            self._timer = self._loop.call_at(when, self._turn)

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def time(self) -> float:
        """Return the time of the loop's clock."""
        return self._loop.time()

    def next_time(self) -> float | None:
        """Return the loop time at which something delayed arrives next; None if nothing is delayed."""
        times = [direction._next_time() for direction in (self.to_server, self.to_client)]
        return min((when for when in times if when is not None), default=None)

    def _turn(self) -> None:
        self._is_awake = False
        self._stop_timer()
        moved = [direction._deliver() for direction in (self.to_server, self.to_client)]
        if any(moved):
            self.wake()

    @property
    def is_quiet(self) -> bool:
        """True if nothing is on its way except held bytes."""
        return not self._is_awake

    def lose(self) -> None:
        """Break the line: both ends notice, and everything on its way, held or not, is gone."""
        self._stop_timer()
        for direction in (self.to_server, self.to_client):
            direction._due.clear()
        for end in (self.pair.server, self.pair.client):
            end.break_off()
