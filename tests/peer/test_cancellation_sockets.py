"""Cancellation in the form of one coroutine a socket: what becomes of calls that nobody answers."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

import sockrpc
from tests.kit.support import request, reset, serving, until
from tests.kit.work import Work, for_each


@pytest.mark.both_protocols
@pytest.mark.row(4, 6)
async def test_the_tutorial_s_form() -> None:
    """Resettable from the start, in tasks of its own; row 6: cancelled once."""
    work = Work()

    async def long_task(call: sockrpc.Call) -> None:
        await call.respond(await work(call))

    async def handle_socket(socket: sockrpc.Socket) -> None:
        async for procedure in socket:
            match procedure:
                case sockrpc.Notification(event="ping", payload=payload):
                    await socket.notify("pong", payload)
                case sockrpc.Call(method="myip") as call:
                    await call.respond("%s:%d" % socket.remote_address[:2])  # noqa: UP031 - as in the tutorial
                case sockrpc.Call(method="long_running_task") as call:
                    call.spawn_and_abort_on_reset(long_task(call))

    async with serving(handle_socket) as here, here.connect() as client:
        assert (await client.call("myip")).startswith(b"127.0.0.1:")
        waiting = asyncio.ensure_future(client.call("long_running_task"))
        await until(lambda: work.calls)
        waiting.cancel()
        await until(lambda: work.ended == 1)
        assert work.cancels == [1]
        work.may_answer.set()
        assert await client.call("long_running_task") == b"answer"
        pongs = client.on("pong")
        await client.notify("ping", b"hi")
        assert await anext(pongs) == b"hi"
        statistics = here.server.statistics()
        assert (statistics.calls_answered, statistics.calls_failed, statistics.calls_reset) == (2, 0, 1)


async def test_a_call_that_is_dropped_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    """The table holds no reference to it; its slot and its id are free."""
    async with (
        serving(for_each(lambda call: None), max_in_flight=1) as here,
        await here.raw() as raw,
    ):
        for count in range(1, 4):
            await raw.send(request(1, "drop"))
            await until(lambda count=count: here.server.statistics().calls_failed == count)
            await raw.synchronize()
        statistics = here.server.statistics()
        assert (statistics.calls_in_flight, statistics.calls_running) == (0, 0)
    assert len(caplog.records) == 3
    assert all("'drop'" in record.getMessage() for record in caplog.records)


async def test_a_call_that_is_dropped_in_a_cycle_has_failed_when_that_is_collected(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def tie(call: sockrpc.Call) -> None:
        knot: list[Any] = [call]
        knot.append(knot)

    async with serving(for_each(tie)) as here, await here.raw() as raw:
        await raw.send(request(1, "tie"))
        await until(lambda: here.server.statistics().calls_started == 1)
        await raw.synchronize()
        gc.collect()
        await raw.synchronize()
        statistics = here.server.statistics()
        assert (statistics.calls_failed, statistics.calls_in_flight, statistics.calls_running) == (1, 0, 0)
    assert len(caplog.records) == 1


async def test_a_call_whose_spawned_work_ends_without_an_answer_has_failed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[sockrpc.Call] = []

    def spawn(call: sockrpc.Call) -> None:
        calls.append(call)
        for _ in range(2):
            call.spawn_and_abort_on_reset(asyncio.sleep(0))

    async with serving(for_each(spawn)) as here, await here.raw() as raw:
        await raw.send(request(1, "spawn"))
        await until(lambda: here.server.statistics().calls_failed == 1)
        await raw.synchronize()
        assert here.server.statistics().calls_running == 0
        # Also for whoever still holds it.
        with pytest.raises(sockrpc.UsageError):
            await calls[0].respond(b"too late")
        calls.clear()
    (record,) = caplog.records
    assert "'spawn'" in record.getMessage()


async def test_abort_on_reset_and_then_an_answer() -> None:
    """The work that is awaited there is not what the call's life hangs on: the caller goes on with it."""
    work = Work()
    tasks: set[asyncio.Task[None]] = set()
    results: list[object] = []

    async def answer(call: sockrpc.Call) -> None:
        result = await call.abort_on_reset(work(call))
        results.append(result)
        if result is not None:
            await call.respond(result)

    def delegate(call: sockrpc.Call) -> None:
        task = asyncio.ensure_future(answer(call))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async with serving(for_each(delegate)) as here, await here.raw() as raw:
        await raw.send(request(1, "delegate"))
        await until(lambda: work.calls)
        await raw.send(reset(1))
        await until(lambda: results)
        await raw.synchronize()
        assert (results, work.cancels) == ([None], [1])
        work.may_answer.set()
        await raw.send(request(1, "delegate"))
        await until(lambda: len(results) == 2)
        await until(lambda: not tasks)
        assert await raw.answer() == (1, b"answer")
        statistics = here.server.statistics()
        assert (statistics.calls_failed, statistics.calls_running) == (0, 0)


@pytest.mark.both_protocols
@pytest.mark.row(1)
async def test_wait_reset_and_respond_on_a_call_that_is_held() -> None:
    """Whoever comes second, the answer or the reset, has no effect."""
    calls: list[sockrpc.Call] = []
    log: list[object] = []
    tasks: set[asyncio.Task[None]] = set()

    async def watch(call: sockrpc.Call) -> None:
        await call.wait_reset()
        log.append((call.id, call.abort_reason, await call.respond(b"too late")))

    def hold(call: sockrpc.Call) -> None:
        calls.append(call)
        tasks.add(asyncio.ensure_future(watch(call)))

    async with serving(for_each(hold)) as here, await here.raw() as raw:
        await raw.send(request(1, "hold"), request(2, "hold"), request(3, "hold"))
        await until(lambda: len(calls) == 3)
        assert await calls[1].respond(b"answer")
        await raw.send(reset(1), reset(2))
        assert await raw.answer() == (2, b"answer")
        await until(lambda: log)
        await raw.synchronize()
        assert here.server.statistics().calls_running == 1
        await raw.close()
        await until(lambda: len(log) == 2)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        calls.clear()
        assert here.server.statistics().calls_failed == 0
    assert log == [(1, "reset", False), (3, "lost", False)]


@pytest.mark.row(5)
async def test_a_call_that_is_reset_before_it_is_taken_is_not_delivered() -> None:
    """And taking procedures slowly never stops reading."""
    delivered: list[int] = []
    may_take = asyncio.Event()

    async def handle_socket(socket: sockrpc.Socket) -> None:
        await may_take.wait()
        async for procedure in socket:
            assert isinstance(procedure, sockrpc.Call)
            await procedure.respond(b"")
            delivered.append(procedure.id)

    async with serving(handle_socket) as here, await here.raw() as raw:
        await raw.send(*(request(id, "x") for id in range(5)))
        await raw.synchronize()
        assert here.server.statistics().procedures_waiting == 5
        await raw.send(reset(0), reset(2), reset(4))
        await raw.synchronize()
        statistics = here.server.statistics()
        assert (statistics.procedures_waiting, statistics.calls_reset, statistics.calls_started) == (2, 3, 0)
        may_take.set()
        assert [await raw.answer() for _ in range(2)] == [(1, b""), (3, b"")]
        await raw.synchronize()
    assert delivered == [1, 3]


@pytest.mark.both_protocols
@pytest.mark.row(17)
async def test_cancelling_the_iteration_loses_nothing() -> None:
    """A timeout around it is the application's own affair."""
    log: list[object] = []

    async def handle_socket(socket: sockrpc.Socket) -> None:
        iterator: AsyncIterator[Any] = aiter(socket)
        while len(log) < 3:
            try:
                async with asyncio.timeout(0.05):
                    call = await anext(iterator)
            except TimeoutError:
                log.append("nothing yet")
            else:
                log.append(call.id)
                await call.respond(b"")

    async with serving(handle_socket) as here, await here.raw() as raw:
        await until(lambda: log)
        await raw.send(request(1, "x"), request(2, "x"))
        assert [(await raw.answer())[0], (await raw.answer())[0]] == [1, 2]
        assert (await raw.closing())[0] == 1000
    assert log == ["nothing yet", 1, 2]


async def test_undo_hooks_of_a_call_that_was_taken() -> None:
    """With work they wait for its end, without they run at once."""
    work = Work()
    log: list[str] = []
    calls: list[sockrpc.Call] = []

    def take(call: sockrpc.Call) -> None:
        calls.append(call)
        call.on_abort(log.append, call.method)
        if call.method == "spawn":
            call.spawn_and_abort_on_reset(work(call))

    async with serving(for_each(take)) as here, await here.raw() as raw:
        work.may_unwind.clear()
        await raw.send(request(1, "hold"), request(2, "spawn"))
        await until(lambda: work.calls)
        await raw.send(reset(2), reset(1))
        await until(lambda: log and work.cancels)
        assert log == ["hold"]
        work.may_unwind.set()
        await until(lambda: here.server.statistics().calls_running == 0)
        calls.clear()
    assert log == ["hold", "spawn"]
