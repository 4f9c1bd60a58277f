"""Cancellation and the tasks that calls run in: plain ones, held until they end, reached directly."""

from __future__ import annotations

import asyncio
import functools
import gc
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import sockrpc
from tests.kit.support import RawClient, notify, request, reset, serving, until
from tests.kit.work import Work


@pytest.mark.both_protocols
@pytest.mark.row(17)
async def test_a_handler_s_own_timeout_is_its_failure_not_an_abort(caplog: pytest.LogCaptureFixture) -> None:
    """And an abort reaches it as CancelledError, through a timeout of its own."""
    app = sockrpc.App()
    seen: list[type[BaseException]] = []

    @app.method("work")
    async def work(call: sockrpc.Call) -> None:
        try:
            async with asyncio.timeout(float(call.text)):
                await asyncio.sleep(60)
        except BaseException as error:
            seen.append(type(error))
            raise

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "work", b"0.01"))
        await until(lambda: here.server.statistics().calls_failed == 1)
        await raw.send(request(1, "work", b"60"))
        await raw.synchronize()
        await raw.send(request(2, "work", b"60"))
        await until(lambda: here.server.statistics().calls_running == 2)
        await asyncio.sleep(0)
        await raw.send(reset(1))
        await until(lambda: here.server.statistics().calls_running == 1)
    assert seen == [TimeoutError, asyncio.CancelledError, asyncio.CancelledError]
    assert len(caplog.records) == 1


@pytest.mark.both_protocols
@pytest.mark.row(8)
@pytest.mark.parametrize("form", ["handler", "abort_on_reset", "spawn_and_abort_on_reset"])
async def test_an_error_of_work_that_unwinds_is_logged_and_is_no_second_failure(
    form: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The call was reset, and is counted as that only."""
    app = sockrpc.App()
    running = asyncio.Event()

    async def fail() -> None:
        running.set()
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError("in the clean-up")

    @app.method("work")
    async def work(call: sockrpc.Call) -> None:
        if form == "handler":
            await fail()
        elif form == "abort_on_reset":
            assert await call.abort_on_reset(fail()) is None
        else:
            call.spawn_and_abort_on_reset(fail())

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        await running.wait()
        await raw.send(reset(1))
        await until(lambda: here.server.statistics().calls_running == 0)
        await raw.synchronize()
        statistics = here.server.statistics()
        assert (statistics.calls_reset, statistics.calls_failed) == (1, 0)
    (record,) = caplog.records
    assert "'work'" in record.getMessage()
    assert "in the clean-up" in caplog.text


@pytest.mark.both_protocols
@pytest.mark.row(19)
async def test_a_loss_reaches_work_below_middleware_without_polling() -> None:
    """Nothing between the connection and the work can hide it."""
    work = Work()
    app = sockrpc.App()

    def middleware(
        handler: Callable[[sockrpc.Call], Awaitable[Any]],
    ) -> Callable[[sockrpc.Call], Awaitable[Any]]:
        @functools.wraps(handler)
        async def wrapped(call: sockrpc.Call) -> Any:
            try:
                return await handler(call)
            except Exception:
                return b"an error, nicely formatted"

        return wrapped

    handler: Any = work.__call__
    for _ in range(3):
        handler = middleware(handler)
    app.method("work")(handler)
    async with serving(app) as here:
        async with await here.raw() as raw:
            await raw.send(request(1, "work"))
            await until(lambda: work.calls)
        await until(lambda: work.ended == 1)
    assert (work.cancels, work.reasons) == ([1], ["lost"])


@pytest.mark.row(20)
async def test_a_call_is_one_plain_task_and_a_connection_none() -> None:
    """No task group, no reader task, no writer task."""
    app = sockrpc.App()
    tasks: set[Any] = set()
    may_answer = asyncio.Event()

    @app.method("work")
    async def work(call: sockrpc.Call) -> None:
        tasks.add(asyncio.current_task())
        await may_answer.wait()

    async with serving(app) as here:
        before = asyncio.all_tasks()
        async with await here.raw() as one, await here.raw() as two:
            for raw in (one, two):
                await raw.send(*(request(id, "work") for id in range(5)))
            await until(lambda: len(tasks) == 10)
            assert asyncio.all_tasks() - before == tasks
            assert {type(task) for task in tasks} == {asyncio.Task}
            may_answer.set()
            for raw in (one, two):
                assert sorted([(await raw.answer())[0] for _ in range(5)]) == [0, 1, 2, 3, 4]


@pytest.mark.both_protocols
@pytest.mark.row(22)
async def test_work_that_nobody_refers_to_is_not_collected() -> None:
    """Calls, spawned work, undo hooks and notification handlers are held until they end."""
    app = sockrpc.App()
    waits: weakref.WeakSet[asyncio.Future[None]] = weakref.WeakSet()
    log: list[str] = []

    async def wait() -> None:
        # Only the frame that waits refers to what it waits for.
        future = asyncio.get_running_loop().create_future()
        waits.add(future)
        await future

    @app.method("call")
    async def call(call: sockrpc.Call) -> bytes:
        await wait()
        return b"answer"

    @app.method("spawn")
    async def spawn(call: sockrpc.Call) -> None:
        async def work() -> None:
            await wait()
            await call.respond(b"spawned")

        call.spawn_and_abort_on_reset(work())

    @app.method("undo")
    async def undo(call: sockrpc.Call) -> None:
        async def hook() -> None:
            await wait()
            log.append("undone")

        call.on_abort(hook)
        await asyncio.sleep(60)

    @app.on("event")
    async def event(notification: sockrpc.Notification) -> None:
        await wait()
        log.append("handled")

    async def collect(raw: RawClient, count: int) -> None:
        await until(lambda: len(waits) == count)
        gc.collect()
        await raw.synchronize()
        assert len(waits) == count
        for future in list(waits):
            future.set_result(None)
        del future

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "call"), request(2, "spawn"), request(3, "undo"), notify("event"))
        await raw.synchronize()
        await asyncio.sleep(0)
        await raw.send(reset(3))
        await collect(raw, 4)
        assert sorted([await raw.answer(), await raw.answer()]) == [(1, b"answer"), (2, b"spawned")]
        await until(lambda: len(log) == 2)
    assert sorted(log) == ["handled", "undone"]


@pytest.mark.both_protocols
@pytest.mark.row(7)
@pytest.mark.parametrize("how", ["raises CancelledError", "is cancelled"])
async def test_an_on_connect_hook_that_ends_by_cancelled_error_has_failed(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Else the connection would stay open, and nobody would ever serve it."""
    app = sockrpc.App()
    app.method("echo")(lambda call: call.payload)

    @app.on_connect
    async def connected(socket: sockrpc.Socket) -> None:
        task = asyncio.current_task()
        assert task is not None
        if how == "is cancelled":
            task.cancel()
            await asyncio.sleep(0)
        raise asyncio.CancelledError

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "echo"))
        assert await raw.closing() == (1011, "on_connect failed")
    assert len(caplog.records) == 1


async def test_what_is_spawned_after_the_work_of_an_answered_call_was_cancelled_is_cancelled_too() -> None:
    """The call is no aborted one, and yet nothing of it may outlive its connection."""
    app = sockrpc.App()
    spawned: list[asyncio.Task[object]] = []

    async def go_on() -> None:
        await asyncio.Event().wait()

    @app.method("work")
    async def work(call: sockrpc.Call) -> None:
        await call.respond(b"early")
        try:
            await asyncio.Event().wait()
        finally:
            spawned.append(call.spawn_and_abort_on_reset(go_on()))

    async with serving(app) as here:
        async with await here.raw() as raw:
            await raw.send(request(1, "work"))
            assert await raw.answer() == (1, b"early")
        await until(lambda: spawned and spawned[0].done())
        assert spawned[0].cancelled()
        await until(lambda: here.server.statistics().calls_running == 0)


@pytest.mark.both_protocols
@pytest.mark.row(4)
async def test_an_abort_in_the_middle_of_the_handler_s_first_step() -> None:
    """The handler itself may be what ends the connection, before its task is known to the call."""
    app = sockrpc.App()
    log: list[object] = []

    @app.method("close")
    async def close(call: sockrpc.Call) -> None:
        call.on_abort(log.append, "undone")
        closing = asyncio.ensure_future(call.socket.close())
        try:
            await asyncio.wait([closing])
        finally:
            log.append(call.abort_reason)
            await closing

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "close"))
        assert await raw.closing() == (1000, "")
        await raw.close()
        await until(lambda: here.server.statistics().calls_running == 0)
    assert log == ["lost", "undone"]


async def test_another_task_that_waits_for_the_reset_keeps_the_cancel_that_is_its_own() -> None:
    app = sockrpc.App()
    spawned: list[asyncio.Task[Any]] = []

    @app.method
    async def work(call: sockrpc.Call) -> None:
        spawned.append(call.spawn_and_abort_on_reset(call.wait_reset()))
        await call.wait_reset()

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        await until(lambda: spawned)
        await raw.synchronize()
        await raw.send(reset(1))
        await until(lambda: here.server.statistics().calls_running == 0)
    assert spawned[0].cancelled()


@pytest.mark.parametrize("waits", ["abort_on_reset", "wait_reset"])
async def test_a_cancel_by_somebody_else_beside_the_abort_is_not_taken_back(waits: str) -> None:
    app = sockrpc.App()
    tasks: list[asyncio.Task[Any]] = []

    @app.method
    async def work(call: sockrpc.Call) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        if waits == "wait_reset":
            await call.wait_reset()
        else:
            await call.abort_on_reset(asyncio.sleep(60))

    @app.method
    def cancel(call: sockrpc.Call) -> None:
        tasks[0].cancel()

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        await until(lambda: tasks)
        await raw.synchronize()
        # In one read: it has not run since the abort.
        await raw.send(reset(1), request(2, "cancel"))
        assert await raw.answer() == (2, b"")
        await until(lambda: here.server.statistics().calls_running == 0)
    assert tasks[0].cancelled()
