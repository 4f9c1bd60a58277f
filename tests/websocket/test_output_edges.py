"""The marks of output, to the byte; and that those who waited for room do not all take it at once."""

from __future__ import annotations

import asyncio
import os
from typing import Any, Self

import pytest
from websockets.extensions.permessage_deflate import PerMessageDeflate

import sockrpc
from sockrpc.websocket.deflate import Compression
from tests.kit.inside import unsent_bytes
from tests.kit.pair import MemoryServer, set_capacity
from tests.kit.support import started, until

HIGH, LOW, MOST = 1000, 400, 3000
MARKS: dict[str, Any] = {"output_high_bytes": HIGH, "output_low_bytes": LOW, "output_max_bytes": MOST}
EVENT = "n"
NOTIFY_BYTES = len(b"\x01\x01n")
# Frames of 126 to 65,535 bytes have a header of four bytes, and a client's have a mask.
HEADER_BYTES = {"server": 4, "client": 8}
ROLES = list(HEADER_BYTES)
ENOUGH = 2**20
AT_THE_MARK = pytest.mark.parametrize(("unsent", "waits"), [(HIGH - 1, False), (HIGH, True)])


def payload_for(unsent: int, role: str = "server") -> bytes:
    """The payload of a notification whose frame takes so many bytes of output."""
    assert unsent >= 126 + HEADER_BYTES[role]
    return bytes(unsent - HEADER_BYTES[role] - NOTIFY_BYTES)


def app() -> sockrpc.App:
    """With a method that holds its call until it is aborted."""
    app = sockrpc.App()

    @app.method("hold")
    async def hold(call: sockrpc.Call) -> None:
        await call.wait_reset()

    return app


class Ends:
    """Both ends of a line: of one of them nothing is taken until the test says so."""

    def __init__(self, here: MemoryServer, role: str, compressed: bool = False) -> None:
        compressions = (compression(), compression()) if compressed else None
        self.client, self.pair = here.connect(limits=MARKS, compressions=compressions)
        (self.socket,) = here.server.connections
        self.ours: Any = self.socket if role == "server" else self.client
        self.end = self.pair.server if role == "server" else self.pair.client
        self.here = here
        self.calls: list[asyncio.Task[Any]] = []

    async def hold(self, calls: int) -> None:
        """Have calls in flight: with several the frames of an iteration are gathered."""
        self.calls = [await started(self.client.call("hold")) for _ in range(calls)]
        await self.here.settle()
        assert self.socket.in_flight == calls

    def shut(self) -> None:
        self.end.capacity = 0

    async def open(self) -> None:
        set_capacity(self.end, ENOUGH)
        await self.here.settle()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.open()
        for call in self.calls:
            call.cancel()
        await self.here.settle()


def compression() -> Compression:
    return Compression(PerMessageDeflate(False, False, 12, 12))


def would_wait(coroutine: Any) -> bool:
    """Take the first step of a coroutine that ends in it unless it has to wait; then it is given up."""
    try:
        coroutine.send(None)
    except StopIteration:
        return False
    coroutine.close()
    return True


@AT_THE_MARK
@pytest.mark.parametrize("role", ROLES)
async def test_notify_waits_from_output_high_bytes_on(role: str, unsent: int, waits: bool) -> None:
    async with MemoryServer(app(), **MARKS) as here, Ends(here, role) as ends:
        ends.shut()
        await ends.ours.notify(EVENT, payload_for(unsent, role))
        assert unsent_bytes(ends.ours) == unsent
        assert would_wait(ends.ours.notify(EVENT)) is waits


@AT_THE_MARK
@pytest.mark.parametrize("role", ROLES)
async def test_what_is_gathered_counts_before_the_end_of_the_iteration(
    role: str, unsent: int, waits: bool
) -> None:
    async with MemoryServer(app(), **MARKS) as here, Ends(here, role) as ends:
        await ends.hold(2)
        ends.shut()
        assert not would_wait(ends.ours.notify(EVENT, payload_for(unsent, role)))
        assert would_wait(ends.ours.notify(EVENT)) is waits


@pytest.mark.parametrize("role", ROLES)
async def test_what_is_gathered_counts_beside_what_the_transport_holds(role: str) -> None:
    async with MemoryServer(app(), **MARKS) as here, Ends(here, role) as ends:
        await ends.hold(2)
        ends.shut()
        await ends.ours.notify(EVENT, payload_for(HIGH // 2, role))
        await until(lambda: unsent_bytes(ends.ours) == HIGH // 2)
        assert not would_wait(ends.ours.notify(EVENT, payload_for(HIGH // 2 - 1, role)))
        assert not would_wait(ends.ours.notify(EVENT, payload_for(HIGH // 4, role)))
        assert would_wait(ends.ours.notify(EVENT))


@pytest.mark.parametrize("role", ROLES)
async def test_compressed_output_is_held_to_the_high_water_mark_within_an_iteration(role: str) -> None:
    async with MemoryServer(app(), **MARKS) as here, Ends(here, role, compressed=True) as ends:
        await ends.hold(2)
        ends.shut()
        taken = 0
        # What does not get shorter by compression.
        while not would_wait(ends.ours.notify(EVENT, os.urandom(300))):
            taken += 1
            assert taken <= HIGH // 300 + 1
        assert HIGH <= unsent_bytes(ends.ours) < HIGH + 350


async def test_compressed_output_is_held_to_output_max_bytes_within_an_iteration() -> None:
    async with MemoryServer(app(), **MARKS) as here, Ends(here, "server", compressed=True) as ends:
        await ends.hold(2)
        ends.shut()
        taken = 0
        while ends.socket.notify_nowait(EVENT, os.urandom(300)):
            taken += 1
            assert taken <= MOST // 300 + 1
        assert MOST < unsent_bytes(ends.socket) < MOST + 350


@pytest.mark.parametrize(("unsent", "takes"), [(MOST, True), (MOST + 1, False)])
async def test_output_max_bytes_may_be_unsent_and_one_more_is_too_much(unsent: int, takes: bool) -> None:
    room = sockrpc.Room()
    async with MemoryServer(app(), **MARKS) as here, Ends(here, "server") as ends:
        room.join(ends.socket)
        ends.shut()
        assert ends.socket.notify_nowait(EVENT, payload_for(unsent))
        assert unsent_bytes(ends.socket) == unsent
        assert ends.socket.notify_nowait(EVENT, payload_for(200)) is takes
        assert unsent_bytes(ends.socket) == unsent + (200 if takes else 0)


@pytest.mark.parametrize(("unsent", "members"), [(MOST, 1), (MOST + 1, 0)])
async def test_a_broadcast_disconnects_above_output_max_bytes_only(unsent: int, members: int) -> None:
    room = sockrpc.Room()
    async with MemoryServer(app(), **MARKS) as here, Ends(here, "server") as ends:
        room.join(ends.socket)
        ends.shut()
        assert ends.socket.notify_nowait(EVENT, payload_for(unsent))
        assert room.broadcast(EVENT) == members
        assert here.server.statistics().slow_peers_closed == 1 - members


@pytest.mark.parametrize(("left", "goes_on"), [(LOW + 1, False), (LOW, True)])
@pytest.mark.parametrize("role", ROLES)
async def test_it_goes_on_at_output_low_bytes(role: str, left: int, goes_on: bool) -> None:
    async with MemoryServer(app(), **MARKS) as here, Ends(here, role) as ends:
        ends.shut()
        await ends.ours.notify(EVENT, payload_for(HIGH, role))
        waiting = await started(ends.ours.notify(EVENT))
        set_capacity(ends.end, HIGH - left)
        assert unsent_bytes(ends.ours) == left
        for _ in range(3):
            await asyncio.sleep(0)
        assert waiting.done() is goes_on
        await ends.open()
        await waiting


@pytest.mark.parametrize("role", ROLES)
async def test_those_who_waited_for_room_go_on_one_by_one(role: str) -> None:
    async with MemoryServer(app(), **MARKS) as here, Ends(here, role) as ends:
        ends.shut()
        await ends.ours.notify(EVENT, payload_for(HIGH, role))
        waiting = [await started(ends.ours.notify(EVENT, payload_for(HIGH, role))) for _ in range(5)]
        for done in range(1, len(waiting) + 1):
            # The network takes what blocked, and no more.
            set_capacity(ends.end, ends.end.capacity + HIGH)
            for _ in range(5):
                await asyncio.sleep(0)
                assert unsent_bytes(ends.ours) <= HIGH
            assert sum(each.done() for each in waiting) == done
        await ends.open()
        await asyncio.gather(*waiting)
