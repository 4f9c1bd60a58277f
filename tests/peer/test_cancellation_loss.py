"""Cancellation by the loss of the connection, in every way in which a connection is lost."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Awaitable, Callable

import pytest

import sockrpc
from tests.kit.support import (
    BINARY,
    CLOSE,
    PATIENCE,
    PING,
    TEXT,
    RawClient,
    Serving,
    frame,
    notify,
    request,
    reset,
    serving,
    until,
)
from tests.kit.work import Work

Loss = Callable[[Serving, RawClient], Awaitable[None]]


async def close_frame(here: Serving, raw: RawClient) -> None:
    await raw.send(frame(CLOSE, struct.pack("!H", 1000)))


async def empty_close_frame(here: Serving, raw: RawClient) -> None:
    await raw.send(frame(CLOSE))


async def fin(here: Serving, raw: RawClient) -> None:
    await raw.close()


async def half_close(here: Serving, raw: RawClient) -> None:
    raw.writer.write_eof()


async def rst(here: Serving, raw: RawClient) -> None:
    raw.reset_line()


async def protocol_error(here: Serving, raw: RawClient) -> None:
    await raw.send(frame(BINARY, b"\xff"))


async def text_message(here: Serving, raw: RawClient) -> None:
    await raw.send(frame(TEXT, b"text"))


async def id_in_use(here: Serving, raw: RawClient) -> None:
    await raw.send(request(1, "work"))


async def closed_by_the_application(here: Serving, raw: RawClient) -> None:
    port = raw.writer.get_extra_info("sockname")[1]
    (socket,) = (socket for socket in here.server.connections if socket.remote_address[1] == port)
    closing = asyncio.ensure_future(socket.close(4000, "enough"))
    assert await raw.closing() == (4000, "enough")
    await raw.send(frame(CLOSE))
    await closing


LOSSES = [
    close_frame,
    empty_close_frame,
    fin,
    half_close,
    rst,
    protocol_error,
    text_message,
    id_in_use,
    closed_by_the_application,
]


@pytest.mark.row(14)
@pytest.mark.parametrize("lose", LOSSES)
async def test_a_lost_connection_aborts_every_call_on_it(lose: Loss) -> None:
    """Running and waiting ones, each once; no other connection notices."""
    work = Work()
    work.may_unwind.clear()
    async with serving(work.app(), max_in_flight=3) as here, await here.raw() as other:
        await other.send(request(9, "work"))
        await until(lambda: len(work.calls) == 1)
        raw = await here.raw()
        await raw.send(*(request(id, "work") for id in range(1, 6)))
        await raw.synchronize()
        await until(lambda: len(work.calls) == 4)
        await lose(here, raw)
        await until(lambda: len(work.cancels) == 3)
        statistics = here.server.statistics()
        assert (statistics.calls_lost, statistics.calls_in_flight, statistics.calls_running) == (5, 1, 4)
        assert (statistics.procedures_waiting, statistics.connections) == (0, 1)
        await raw.close()
        await other.synchronize()
        work.may_unwind.set()
        await until(lambda: here.server.statistics().calls_running == 1)
        work.may_answer.set()
        assert await other.answer() == (9, b"answer")
    assert (work.cancels, work.reasons) == ([1] * 3, ["lost"] * 3)
    assert (len(work.calls), work.ended) == (4, 4)
    assert [call.abort_reason for call in work.calls] == [None, *["lost"] * 3]


@pytest.mark.both_protocols
@pytest.mark.row(14)
async def test_a_peer_that_stops_answering_is_found_and_aborted_not_politely_closed() -> None:
    """Half-open; keepalive finds it, and no close frame waits for an answer."""
    work = Work()
    async with serving(work.app(), ping_interval=0.1, ping_timeout=0.1, close_timeout=30) as here:
        raw = await here.raw()
        await raw.send(request(1, "work"))
        await until(lambda: work.calls)
        began = asyncio.get_running_loop().time()
        await until(lambda: work.ended == 1)
        took = asyncio.get_running_loop().time() - began
        received = await raw.wait(everything(raw))
        await raw.close()
    assert (work.cancels, work.reasons) == ([1], ["lost"])
    assert received == [PING]
    assert 0.15 < took < PATIENCE / 2


async def everything(raw: RawClient) -> list[int]:
    """The opcodes of all frames to the end of the connection."""
    opcodes: list[int] = []
    while True:
        try:
            opcode, _ = await raw.receive()
        except (asyncio.IncompleteReadError, ConnectionResetError):
            return opcodes
        opcodes.append(opcode)


@pytest.mark.both_protocols
@pytest.mark.row(14)
async def test_a_peer_that_answers_pings_is_not_taken_for_lost() -> None:
    """The work may take many times longer than the keepalive."""
    work = Work()
    async with (
        serving(work.app(), ping_interval=0.05, ping_timeout=1.0) as here,
        here.connect(ping_interval=None) as client,
    ):
        waiting = asyncio.ensure_future(client.call("work"))
        await until(lambda: work.calls)
        await asyncio.wait([waiting], timeout=0.4)
        assert not waiting.done()
        work.may_answer.set()
        assert await waiting == b"answer"


@pytest.mark.both_protocols
@pytest.mark.row(4, 14)
async def test_calls_in_the_same_read_as_the_loss() -> None:
    """Row 14, row 4: what was received before the close frame is started, then aborted."""
    work = Work()
    async with serving(work.app()) as here, await here.raw() as raw:
        await raw.send(
            request(1, "work"),
            request(2, "echo", b"x"),
            frame(CLOSE, struct.pack("!H", 1000)),
            request(3, "echo", b"y"),
        )
        assert await raw.answer() == (2, b"x")
        assert await raw.closing() == (1000, "")
        assert await raw.nothing_more()
        await until(lambda: here.server.statistics().calls_running == 0)
        statistics = here.server.statistics()
        assert (statistics.calls_lost, statistics.calls_started, statistics.calls_answered) == (1, 2, 1)
    assert len(work.calls) == len(work.cancels) == work.ended <= 1


@pytest.mark.parametrize("id", [0, 1000])
async def test_what_starts_after_the_loss_finds_all_calls_aborted(id: int) -> None:
    """Also those that the end comes to after the call that kept it waiting, in whatever order."""
    work = Work()
    app = work.app()
    seen: list[str | None] = []

    @app.on
    def note(notification: sockrpc.Notification) -> None:
        seen.extend(call.abort_reason for call in work.calls)

    running = range(500, 510)
    async with serving(app, max_in_flight=len(running)) as here, await here.raw() as raw:
        await raw.send(*(request(n, "work") for n in running), request(id, "work"), notify("note"))
        await until(lambda: here.server.statistics().procedures_waiting == 2)
        await until(lambda: len(work.calls) == len(running))
        raw.reset_line()
        await until(lambda: seen == ["lost"] * len(running))


@pytest.mark.both_protocols
@pytest.mark.row(14)
async def test_work_that_goes_on_after_its_answer_ends_with_the_connection() -> None:
    """Nothing outlives its connection by accident; but that is no abort of the call."""
    app = sockrpc.App()
    log: list[object] = []

    @app.method("work")
    async def work(call: sockrpc.Call) -> None:
        assert await call.respond(b"early")
        call.on_abort(log.append, "undone")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            log.append((call.is_reset, call.abort_reason))
            raise

    async with serving(app) as here:
        async with await here.raw() as raw:
            await raw.send(request(1, "work"))
            assert await raw.answer() == (1, b"early")
        await until(lambda: here.server.statistics().calls_running == 0)
        assert here.server.statistics().calls_lost == 0
    assert log == [(False, None)]


@pytest.mark.both_protocols
@pytest.mark.row(18)
async def test_a_notification_handler_goes_on_after_the_loss() -> None:
    """Its client was not waiting."""
    app = sockrpc.App()
    may_end, running = asyncio.Event(), asyncio.Event()
    log: list[str] = []

    @app.on("event")
    async def event(notification: sockrpc.Notification) -> None:
        running.set()
        await may_end.wait()
        with pytest.raises(sockrpc.ConnectionLost):
            await notification.socket.notify("too late")
        log.append("handled")

    async with serving(app) as here:
        async with await here.raw() as raw:
            await raw.send(notify("event"))
            await running.wait()
        await until(lambda: not here.server.connections)
        assert here.server.statistics().notifications_running == 1
        may_end.set()
        await until(lambda: here.server.statistics().notifications_running == 0)
    assert log == ["handled"]


@pytest.mark.both_protocols
@pytest.mark.row(10, 14)
@pytest.mark.parametrize("kind", ["coroutine", "thread"])
@pytest.mark.parametrize("reason", ["reset", "lost", "timeout", "stop"])
async def test_the_reason_of_an_abort(reason: str, kind: str) -> None:
    """In a thread as in a coroutine; and row 14: whatever it was, the call is reset."""
    app = sockrpc.App()
    began = threading.Event()
    seen: list[tuple[bool, str | None]] = []
    timeout = 0.25 if reason == "timeout" else None

    def thread(call: sockrpc.Call) -> None:
        assert (call.is_reset, call.abort_reason) == (False, None)
        began.set()
        pause = threading.Event()
        while not call.is_reset:
            pause.wait(0.001)
        seen.append((call.is_reset, call.abort_reason))
        call.raise_if_reset()
        seen.append((False, "raise_if_reset did not raise"))

    async def coroutine(call: sockrpc.Call) -> None:
        assert (call.is_reset, call.abort_reason) == (False, None)
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            seen.append((call.is_reset, call.abort_reason))

    app.method("work", timeout=timeout, thread=kind == "thread")(thread if kind == "thread" else coroutine)
    async with serving(app, stop_grace=0.01) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        await until(began.is_set)
        if reason == "reset":
            await raw.send(reset(1))
        elif reason == "lost":
            await raw.close()
        elif reason == "stop":
            here.server.close()
        await until(lambda: here.server.statistics().calls_running == 0)
        statistics = here.server.statistics()
        names = {
            "reset": "calls_reset",
            "lost": "calls_lost",
            "timeout": "calls_timed_out",
            "stop": "calls_stopped",
        }
        for each, name in names.items():
            assert getattr(statistics, name) == (1 if each == reason else 0), name
        if reason in ("reset", "timeout"):
            await raw.synchronize()
    assert seen == [(True, reason)]


async def test_more_calls_than_are_aborted_at_once_are_all_aborted_by_one_loss() -> None:
    work = Work()
    count = 1_500  # cancelled in groups of 512
    async with serving(work.app(), max_in_flight=count) as here, await here.raw() as raw:
        await raw.send(*(request(id, "work") for id in range(count)))
        await until(lambda: here.server.statistics().calls_running == count)
        raw.reset_line()
        await until(lambda: not here.server.statistics().calls_running)
        statistics = here.server.statistics()
    assert (statistics.calls_lost, statistics.calls_in_flight) == (count, 0)


async def test_a_loss_within_a_large_message() -> None:
    # The transport has asked for room for the rest of the message, which may have moved what came before.
    work = Work()
    begun = frame(2, bytes(1 << 20))[: 64 * 1024]
    async with serving(work.app()) as here:
        for _ in range(20):
            async with await here.raw() as raw:
                await raw.send(request(1, "work"), begun)
                await until(lambda: here.server.statistics().calls_running == 1)
                raw.reset_line()
                await until(lambda: not here.server.statistics().calls_running)
        assert here.server.statistics().calls_lost == 20
