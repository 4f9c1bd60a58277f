"""The limits of what goes out: a peer that does not read blocks itself, and nobody else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import sockrpc
from tests.kit.inside import unsent_bytes, working
from tests.kit.narrow import LINE_BYTES, NarrowServing, serving_narrowly
from tests.kit.support import BINARY, PING, PONG, RawClient, frame, notify, request, reset, started, until
from tests.kit.tls import server_context
from tests.kit.work import Work

HIGH, LOW, MOST = 100_000, 20_000, 300_000
OUTPUT: dict[str, Any] = {"output_high_bytes": HIGH, "output_low_bytes": LOW, "output_max_bytes": MOST}
# Header of the WebSocket frame, opcode and id, and the answer's own size.
SIZE = 30_000
MESSAGE_BYTES = SIZE + 9


class Big(Work):
    """An app that answers "big" at once with much, and records how much was unsent when it did."""

    def __init__(self, size: int = SIZE) -> None:
        super().__init__()
        self.size = size
        self.unsent: list[int] = []

    def app(self, **options: Any) -> sockrpc.App:
        app = super().app(**options)
        app.method("big")(self.big)
        return app

    def big(self, call: sockrpc.Call) -> bytes:
        self.unsent.append(unsent_bytes(call.socket))
        return bytes([call.id % 256]) * self.size


async def block(here: NarrowServing, raw: RawClient, calls: int = LINE_BYTES // SIZE) -> None:
    """Ask for more than the line takes, from id 1 on."""
    await raw.send(*(request(n, "big") for n in range(1, calls + 1)))
    await until(lambda: here.server.statistics().procedures_waiting > 0)
    await settled(here)


async def settled(here: NarrowServing) -> None:
    """Wait until the system takes no more: a lone other connection is served many times meanwhile."""
    connections = here.server.statistics().connections
    async with await here.narrow_raw() as other:
        for _ in range(20):
            await other.synchronize()
    await until(lambda: here.server.statistics().connections == connections)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_calls_wait_while_output_is_blocked_and_unsent_output_stays_bounded(tls: bool) -> None:
    there = Big()
    options = OUTPUT | ({"ssl": server_context()} if tls else {})
    async with serving_narrowly(there.app(), **options) as here, await here.narrow_raw() as raw:
        calls = LINE_BYTES // SIZE
        await block(here, raw, calls)
        socket = here.only_socket()
        assert len(there.unsent) < calls
        assert here.server.statistics().procedures_waiting == calls - len(there.unsent)
        # The last answer crossed the mark; none was begun above it.
        assert LOW < unsent_bytes(socket) <= HIGH + MESSAGE_BYTES
        for n in range(1, calls + 1):
            assert await raw.answer() == (n, bytes([n % 256]) * SIZE)
        assert max(there.unsent) < HIGH
        assert here.server.statistics().procedures_waiting == 0


async def test_one_read_full_of_requests_that_each_ask_for_much_is_no_way_around_it() -> None:
    there = Big(size=1_000_000)
    async with serving_narrowly(there.app(), **OUTPUT) as here, await here.narrow_raw() as raw:
        await raw.send(*(request(n, "big") for n in range(100)))
        await until(lambda: here.server.statistics().procedures_waiting > 0)
        await settled(here)
        socket = here.only_socket()
        assert unsent_bytes(socket) <= HIGH + 1_000_000 + 20
        assert len(there.unsent) <= 2


async def test_calls_go_on_below_output_low_bytes_and_not_before() -> None:
    there = Big()
    async with serving_narrowly(there.app(), **OUTPUT) as here, await here.narrow_raw() as raw:
        await block(here, raw)
        begun = len(there.unsent)
        while len(there.unsent) == begun:
            await raw.wait(raw.reader.readexactly(1000))
        assert there.unsent[begun] <= LOW


async def test_resets_are_acted_on_while_output_is_blocked() -> None:
    there = Big()
    async with serving_narrowly(there.app(), **OUTPUT) as here, await here.narrow_raw() as raw:
        await raw.send(request(1000, "work"))
        await until(lambda: there.calls)
        await block(here, raw)
        waiting = here.server.statistics().procedures_waiting
        # The first is running, the others wait; the last two stay.
        await raw.send(reset(1000), *(reset(n) for n in range(1, LINE_BYTES // SIZE - 1)))
        await until(lambda: there.ended)
        assert there.reasons == ["reset"]
        await until(lambda: here.server.statistics().procedures_waiting == 2)
        assert waiting > 2
        answered = [(await raw.answer())[0] for _ in range(len(there.unsent) + 2)]
        assert answered[-2:] == [LINE_BYTES // SIZE - 1, LINE_BYTES // SIZE]
        await raw.synchronize()
        assert here.server.statistics().calls_in_flight == 0


async def test_notifications_are_handled_while_output_is_blocked() -> None:
    there = Big()
    heard: list[bytes] = []
    app = there.app()
    app.on("event")(lambda notification: heard.append(notification.payload))
    async with serving_narrowly(app, **OUTPUT) as here, await here.narrow_raw() as raw:
        await fill(here, raw)
        await raw.send(notify("event", b"x"))
        await until(lambda: heard)


async def fill(here: NarrowServing, raw: RawClient, most: int = HIGH) -> sockrpc.Socket:
    """Let the socket of `raw` have more unsent than `most`, by notifications."""
    socket = here.only_socket()
    while unsent_bytes(socket) <= most:
        socket.notify_nowait("n", bytes(SIZE))
        await asyncio.sleep(0)
    return socket


async def test_notify_waits_above_the_high_water_mark_and_goes_on_below_the_low_one() -> None:
    async with serving_narrowly(Work().app(), **OUTPUT) as here, await here.narrow_raw() as raw:
        socket = await fill(here, raw)
        await settled(here)
        waiting = await started(socket.notify("last"))
        while unsent_bytes(socket) > LOW:
            assert not waiting.done()
            await raw.wait(raw.reader.readexactly(1000))
        await raw.wait(waiting)


async def test_notify_nowait_is_false_above_output_max_bytes_and_not_below() -> None:
    async with serving_narrowly(Work().app(), **OUTPUT) as here, await here.narrow_raw() as raw:
        socket = await fill(here, raw)
        await settled(here)
        sent = []
        while socket.notify_nowait("n", bytes(5000)):
            sent.append(unsent_bytes(socket))
        # The one that crossed the mark was taken, and none after it.
        assert MOST < sent[-1] <= MOST + 5020
        assert all(unsent <= MOST for unsent in sent[:-1])
        assert unsent_bytes(socket) == sent[-1]
        assert socket.notify_nowait("n") is False
        await settled(here)
        assert here.only_socket() is socket


async def test_a_member_that_does_not_read_is_disconnected_with_1013_and_the_others_notice_nothing() -> None:
    app = sockrpc.App()
    room = sockrpc.Room()
    disconnected: list[sockrpc.Socket] = []
    app.on_connect(room.join)
    app.on_disconnect(disconnected.append)
    payloads = [bytes([n]) * SIZE for n in range(2 * LINE_BYTES // SIZE)]
    async with (
        serving_narrowly(app, **OUTPUT, close_timeout=30.0) as here,
        await here.narrow_raw() as slow,
        await here.narrow_raw() as quick,
    ):
        await until(lambda: len(room) == 2)
        counts = []
        for payload in payloads:
            counts.append(room.broadcast("e", payload))
            assert await quick.receive() == (BINARY, b"\x01\x01e" + payload)
        queued = counts.index(1)
        assert counts == [2] * queued + [1] * (len(payloads) - queued)
        assert len(room) == 1
        await until(lambda: disconnected)
        assert len(disconnected) == 1
        await quick.synchronize()
        # What was queued for it comes, then the reason.
        for payload in payloads[:queued]:
            assert await slow.receive() == (BINARY, b"\x01\x01e" + payload)
        assert (await slow.closing())[0] == 1013
        assert here.server.statistics().slow_peers_closed == 1


async def test_a_member_disconnected_for_its_slowness_loses_its_calls() -> None:
    there = Work()
    app = there.app()
    room = sockrpc.Room()
    app.on_connect(room.join)
    async with serving_narrowly(app, **OUTPUT, close_timeout=0.2) as here, await here.narrow_raw() as raw:
        await raw.send(request(1, "work"))
        await until(lambda: there.calls)
        while room.broadcast("e", bytes(SIZE)):
            await asyncio.sleep(0)
        await until(lambda: there.ended)
        assert there.reasons == ["lost"]
        # It does not read its close frame either; the close time-out ends that.
        await until(lambda: not working(here.server))


async def test_above_the_high_water_mark_only_the_latest_ping_is_answered() -> None:
    there = Big()
    async with serving_narrowly(there.app(), **OUTPUT) as here, await here.narrow_raw() as raw:
        await block(here, raw)
        answers = len(there.unsent)
        pings = [b"%d" % n for n in range(500)]
        await raw.send(*(frame(PING, ping) for ping in pings), *(reset(n) for n in range(1, 1000)))
        await until(lambda: here.server.statistics().procedures_waiting == 0)
        for n in range(1, answers + 1):
            assert await raw.answer() == (n, bytes([n % 256]) * SIZE)
        assert await raw.receive() == (PONG, pings[-1])
        await raw.synchronize()


async def test_a_connection_whose_output_is_blocked_is_no_burden_for_the_others() -> None:
    there = Big()
    async with serving_narrowly(there.app(), **OUTPUT) as here, await here.narrow_raw() as raw:
        await block(here, raw)
        async with here.connect() as client:
            assert await client.call("echo", b"x") == b"x"
            assert len(await client.call("big")) == SIZE


@pytest.mark.parametrize("how", ["reset", "end of file"])
async def test_a_connection_that_is_lost_while_its_output_is_blocked_leaves_nothing(how: str) -> None:
    there = Big()
    async with serving_narrowly(there.app(), **OUTPUT) as here:
        raw = await here.narrow_raw()
        await raw.send(request(1000, "work"))
        await block(here, raw)
        if how == "reset":
            raw.reset_line()
        await raw.close()
        await until(lambda: there.ended)
        assert there.reasons == ["lost"]
        await until(lambda: not working(here.server))
        assert here.server.statistics().procedures_waiting == 0
