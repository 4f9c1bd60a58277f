"""When a connection is given up, to the byte that has left: the clock and the line are the test's."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import sockrpc
from tests.kit.clock import new_still_loop
from tests.kit.loops import LOOPS
from tests.kit.pair import MemoryServer, set_capacity
from tests.kit.support import PING, request
from tests.kit.work import Work

INTERVAL, TIMEOUT, STALL, CLOSE_TIMEOUT = 20.0, 12.0, 40.0, 8.0
# The sweep looks once a second, and carries out its verdict at the second look.
LOOKS = 2.0
LIMITS: dict[str, Any] = {"ping_interval": INTERVAL, "ping_timeout": TIMEOUT, "stall_timeout": STALL}
PING_BYTES = 2 + len(b"sockrpc")

by_loop = pytest.mark.parametrize("kind", LOOPS)


class Line:
    """A connection of a server whose bytes leave when the test says so."""

    def __init__(self, loop: Any, here: MemoryServer) -> None:
        self.loop = loop
        self.here = here
        self.raw, self.pair = here.raw(capacity=0)
        (self.socket,) = here.server.connections

    async def pass_time(self, seconds: float) -> None:
        """Second by second: whatever is due then happens then."""
        for _ in range(round(seconds)):
            self.loop.advance(1.0)
            for _ in range(5):
                await asyncio.sleep(0)

    def leave(self, size: int) -> None:
        """So many bytes more leave; nobody gets them."""
        set_capacity(self.pair.server, self.pair.server.capacity + size)

    @property
    def unsent(self) -> int:
        return self.pair.server.get_write_buffer_size()

    @property
    def is_up(self) -> bool:
        return bool(self.here.server.connections)


def played(
    kind: str,
    test: Callable[[Line], Coroutine[Any, Any, None]],
    app: sockrpc.App | None = None,
    **limits: Any,
) -> None:
    """Run a test on a loop whose clock is its own."""
    loop = new_still_loop(kind)

    async def play() -> None:
        here = MemoryServer(app or sockrpc.App(), **(LIMITS | limits))
        line = Line(loop, here)
        try:
            await test(line)
        finally:
            # Nothing here may wait for a timer.
            line.leave(2**20)
            line.raw.transport.abort()
            await here.settle()
            here.server.close()
            await here.settle()
        await here.server.wait_closed()

    try:
        loop.run_until_complete(play())
    finally:
        loop.close()


@by_loop
def test_an_unanswered_ping_is_waited_for_as_long_as_it_says(kind: str) -> None:
    async def test(line: Line) -> None:
        line.pair.server.capacity = 2**20
        await line.pass_time(INTERVAL - 1)
        assert line.pair.server.on_its_way == b""
        await line.pass_time(1)
        assert line.pair.server.on_its_way[0] & 0x0F == PING
        await line.pass_time(TIMEOUT - 1)
        assert line.is_up
        await line.pass_time(LOOKS)
        assert not line.is_up

    played(kind, test)


@by_loop
@pytest.mark.parametrize("left", ["all but the last byte of the ping", "the ping too"])
def test_the_time_of_a_ping_begins_when_its_last_byte_has_left(left: str, kind: str) -> None:
    async def test(line: Line) -> None:
        before = 500
        assert line.socket.notify_nowait("n", bytes(before - 4 - 3))
        await line.pass_time(INTERVAL)
        # Something stood before the ping; what leaves of it is a sign of life.
        assert line.unsent == before + PING_BYTES
        await line.pass_time(TIMEOUT - 2)
        line.leave(before + PING_BYTES - (left != "the ping too"))
        # That was the last sign but one, or the last one: what comes after the ping is none.
        await line.pass_time(TIMEOUT - 2)
        assert line.is_up
        assert line.socket.notify_nowait("n", bytes(before))
        line.leave(1)
        await line.pass_time(2 + LOOKS)
        assert line.is_up is (left != "the ping too")
        line.leave(1)
        await line.pass_time(TIMEOUT + LOOKS)
        assert not line.is_up

    played(kind, test)


@by_loop
def test_a_peer_that_takes_a_byte_in_time_is_not_given_up_and_one_that_takes_none_is(kind: str) -> None:
    async def test(line: Line) -> None:
        assert line.socket.notify_nowait("n", bytes(2000))
        # The first look finds output blocked.
        await line.pass_time(STALL)
        line.leave(1)
        await line.pass_time(STALL)
        assert line.is_up
        assert line.here.server.statistics().slow_peers_closed == 0
        await line.pass_time(LOOKS + 1)
        assert not line.is_up
        assert line.here.server.statistics().slow_peers_closed == 1
        with pytest.raises(sockrpc.ConnectionLost, match="stalled: the peer does not read"):
            await line.socket.notify("n")

    played(kind, test, output_high_bytes=1000, output_low_bytes=500)


@by_loop
def test_one_that_does_not_read_the_close_frame_is_not_closed_for_being_slow(kind: str) -> None:
    async def test(line: Line) -> None:
        assert line.socket.notify_nowait("n", bytes(2000))
        await line.pass_time(LOOKS)
        closing = asyncio.ensure_future(line.socket.close())
        await line.pass_time(CLOSE_TIMEOUT - 1)
        assert not closing.done()
        await line.pass_time(LOOKS + 1)
        await closing
        assert line.here.server.statistics().slow_peers_closed == 0

    played(kind, test, output_high_bytes=1000, output_low_bytes=500, close_timeout=CLOSE_TIMEOUT)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell what a look is for")
@by_loop
def test_of_more_paused_connections_than_are_pinged_at_once_each_has_its_turn(kind: str) -> None:
    at_once, count, looks = 256, 600, 50
    ours, theirs = socket.socketpair()
    theirs.send(b"unread")

    async def test(line: Line) -> None:
        pairs = [line.here.raw() for _ in range(count)]
        for raw, pair in pairs:
            # All have bytes that wait in the system: those of one and the same socket.
            pair.server.get_extra_info = lambda name, default=None: ours
            raw.send(request(1, "work"), request(2, "work"))
        await line.here.settle()
        assert not any(pair.server.is_reading() for _, pair in pairs)
        # The first look is at what may be a pause of a moment.
        await line.pass_time(1)
        for raw, _ in pairs:
            raw.frames.clear()
        for _ in range(looks):
            line.loop.advance(0.4)
            await line.here.settle()
        pings = [sum(opcode == PING for opcode, _ in raw.frames) for raw, _ in pairs]
        assert sum(pings) == looks * at_once
        # Who comes first is drawn: one in a billion misses all of them.
        assert min(pings) > 0
        there.may_answer.set()
        for raw, _ in pairs:
            raw.transport.abort()

    there = Work()
    with ours, theirs:
        played(kind, test, there.app(), max_in_flight=1, max_waiting_calls=1, ping_interval=3600.0)
