"""The undo hooks of `call.on_abort`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

import sockrpc
from tests.kit.support import PATIENCE, request, reset, serving, until
from tests.kit.work import Stubborn, Work


async def test_hooks_run_after_the_handler_last_registered_first() -> None:
    app = sockrpc.App()
    log: list[object] = []
    running = asyncio.Event()

    async def waits(word: str) -> None:
        await asyncio.sleep(0)
        log.append(word)

    @app.method("work")
    async def work(call: sockrpc.Call) -> None:
        call.on_abort(log.append, "first")
        call.on_abort(waits, "second")
        call.on_abort(lambda *args: log.append(args), 1, 2)
        running.set()
        try:
            await asyncio.sleep(60)
        finally:
            call.on_abort(log.append, "registered while it unwinds")
            await asyncio.sleep(0)
            log.append("unwound")

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        await running.wait()
        await raw.send(reset(1))
        await until(lambda: here.server.statistics().calls_running == 0)
        await raw.synchronize()
    assert log == ["unwound", "registered while it unwinds", (1, 2), "second", "first"]


async def test_hooks_run_one_after_another_and_hold_the_slot() -> None:
    """The call counts until the last of them has ended."""
    app = sockrpc.App()
    log: list[str] = []
    may_end = asyncio.Event()
    running = asyncio.Event()

    async def slow() -> None:
        log.append("slow begins")
        await may_end.wait()
        log.append("slow ends")

    @app.method("work")
    async def work(call: sockrpc.Call) -> None:
        call.on_abort(log.append, "first")
        call.on_abort(slow)
        running.set()
        await asyncio.sleep(60)

    app.method("echo")(lambda call: call.payload)
    async with serving(app, max_in_flight=1) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        await running.wait()
        await raw.send(reset(1), request(1, "echo", b"next"))
        await until(lambda: log == ["slow begins"])
        await raw.synchronize()
        statistics = here.server.statistics()
        assert (statistics.calls_running, statistics.procedures_waiting) == (1, 1)
        may_end.set()
        assert await raw.answer() == (1, b"next")
    assert log == ["slow begins", "slow ends", "first"]


async def test_hooks_run_when_the_handler_has_swallowed_the_cancel() -> None:
    stubborn = Stubborn()
    app = sockrpc.App()
    log: list[object] = []

    @app.method("work")
    async def work(call: sockrpc.Call) -> bytes:
        call.on_abort(lambda: log.append(stubborn.ended))
        return await stubborn(call)

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        await until(lambda: stubborn.calls)
        await raw.send(reset(1))
        await until(lambda: stubborn.cancels)
        await raw.synchronize()
        assert log == []
        stubborn.may_unwind.set()
        await until(lambda: log)
        await raw.synchronize()
    assert log == [1]


@pytest.mark.both_protocols
@pytest.mark.row(10)
async def test_hooks_run_after_the_thread_has_ended() -> None:
    """And on the loop, not in the thread."""
    app = sockrpc.App()
    began, may_end = threading.Event(), threading.Event()
    log: list[object] = []

    @app.method("work", thread=True)
    def work(call: sockrpc.Call) -> None:
        call.on_abort(lambda: log.append(threading.current_thread()))
        began.set()
        may_end.wait()
        log.append("the thread ends")
        call.raise_if_reset()

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        await until(began.is_set)
        await raw.send(reset(1))
        await raw.synchronize()
        assert log == []
        may_end.set()
        await until(lambda: here.server.statistics().calls_running == 0)
    assert log == ["the thread ends", threading.current_thread()]


def raises() -> None:
    raise ValueError("cannot undo")


async def raises_later() -> None:
    await asyncio.sleep(0)
    raise ValueError("cannot undo")


def raises_cancelled() -> None:
    raise asyncio.CancelledError


async def awaits_a_cancelled_task() -> None:
    task = asyncio.ensure_future(asyncio.sleep(60))
    task.cancel()
    await task


@pytest.mark.both_protocols
@pytest.mark.row(7)
@pytest.mark.parametrize("hook", [raises, raises_later, raises_cancelled, awaits_a_cancelled_task])
async def test_a_hook_that_raises_is_logged_and_does_not_stop_the_next(
    hook: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A CancelledError that is no abort is an exception like any other."""
    app = sockrpc.App()
    log: list[str] = []
    running = asyncio.Event()

    @app.method("work")
    async def work(call: sockrpc.Call) -> None:
        call.on_abort(log.append, "first")
        call.on_abort(hook)
        call.on_abort(log.append, "last")
        running.set()
        await asyncio.sleep(60)

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        await running.wait()
        await raw.send(reset(1))
        await until(lambda: here.server.statistics().calls_running == 0)
        await raw.synchronize()
        assert here.server.statistics().calls_failed == 0
    assert log == ["last", "first"]
    (record,) = caplog.records
    assert "'work'" in record.getMessage()


@pytest.mark.parametrize("how", ["returns", "responds", "raises", "responds, then is lost"])
async def test_hooks_do_not_run_for_a_call_that_was_answered_or_failed(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = sockrpc.App()
    log: list[str] = []

    @app.method("work")
    async def work(call: sockrpc.Call) -> Any:
        call.on_abort(log.append, "undone")
        await asyncio.sleep(0)
        if how == "raises":
            raise ValueError
        if how == "returns":
            return b"answer"
        await call.respond(b"answer")
        call.on_abort(log.append, "undone after the answer")
        if how == "responds, then is lost":
            await asyncio.sleep(60)
        return None

    async with serving(app) as here:
        async with await here.raw() as raw:
            await raw.send(request(1, "work"))
            if how == "raises":
                await until(lambda: here.server.statistics().calls_failed == 1)
            else:
                assert await raw.answer() == (1, b"answer")
            await raw.send(reset(1))
            await raw.synchronize()
        await until(lambda: here.server.statistics().calls_running == 0)
        assert here.server.statistics().calls_reset == 0
    assert log == []
    assert (len(caplog.records) == 1) == (how == "raises")


@pytest.mark.parametrize("reason", ["lost", "timeout", "stop"])
async def test_hooks_run_for_every_kind_of_abort(reason: str) -> None:
    work = Work()
    app = sockrpc.App()
    log: list[object] = []

    @app.method("work", timeout=0.05 if reason == "timeout" else None)
    async def handler(call: sockrpc.Call) -> bytes:
        call.on_abort(lambda: log.append(call.abort_reason))
        return await work(call)

    async with serving(app, stop_grace=0.01) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        await until(lambda: work.calls)
        if reason == "lost":
            await raw.close()
        elif reason == "stop":
            here.server.close()
        await until(lambda: log)
        await until(lambda: here.server.statistics().calls_running == 0)
    assert log == [reason]


@pytest.mark.parametrize("kind", ["function", "coroutine function"])
async def test_a_hook_that_is_registered_late_runs_at_once(kind: str) -> None:
    """The work has ended, so nothing is left to wait for; it runs once, as do those before it."""
    work = Work()
    app = sockrpc.App()
    log: list[str] = []

    async def waits(word: str) -> None:
        await asyncio.sleep(0)
        log.append(word)

    @app.method("work")
    async def handler(call: sockrpc.Call) -> bytes:
        call.on_abort(log.append, "in time")
        return await work(call)

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        await until(lambda: work.calls)
        await raw.send(reset(1))
        await until(lambda: here.server.statistics().calls_running == 0)
        assert log == ["in time"]
        for word in ("late", "later"):
            work.calls[0].on_abort(log.append if kind == "function" else waits, word)
            await until(lambda word=word: log[-1] == word)
        await raw.synchronize()
        assert here.server.statistics().calls_running == 0
        work.calls.clear()
    assert log == ["in time", "late", "later"]


async def test_a_late_hook_does_not_run_for_a_call_that_was_answered() -> None:
    app = sockrpc.App()
    calls: list[sockrpc.Call] = []
    log: list[str] = []

    @app.method("work")
    async def work(call: sockrpc.Call) -> bytes:
        calls.append(call)
        return b"answer"

    async with serving(app) as here:
        async with await here.raw() as raw:
            await raw.send(request(1, "work"))
            assert await raw.answer() == (1, b"answer")
            calls[0].on_abort(log.append, "undone")
        await until(lambda: not here.server.connections)
    assert log == []


@pytest.mark.both_protocols
@pytest.mark.row(18)
@pytest.mark.parametrize("ending", ["reset", "lost"])
async def test_hooks_of_work_that_runs_to_completion_do_not_run_on_reset_or_loss(ending: str) -> None:
    """It was not aborted, so there is nothing to undo, not even for a hook that comes late."""
    work = Work()
    app = sockrpc.App()
    log: list[str] = []

    @app.method("pay", run_to_completion=True)
    async def pay(call: sockrpc.Call) -> bytes:
        call.on_abort(log.append, "undone")
        return await work(call)

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "pay"))
        await until(lambda: work.calls)
        if ending == "reset":
            await raw.send(reset(1))
            await raw.synchronize()
        else:
            await raw.close()
        await until(lambda: here.server.statistics().calls_in_flight == 0)
        work.may_answer.set()
        await until(lambda: here.server.statistics().calls_running == 0)
        assert (work.ended, work.cancels) == (1, [])
        work.calls[0].on_abort(log.append, "undone late")
        for _ in range(3):
            await asyncio.sleep(0)
        assert log == []


@pytest.mark.both_protocols
@pytest.mark.row(18)
@pytest.mark.parametrize("reset_before", [False, True], ids=["in flight", "reset before"])
@pytest.mark.parametrize("reason", ["timeout", "stop"])
async def test_hooks_of_work_that_runs_to_completion_run_when_it_is_aborted(
    reason: str, reset_before: bool
) -> None:
    """By its own timeout, and by the end of the stop grace."""
    work = Work()
    app = sockrpc.App()
    log: list[str | None] = []

    @app.method("pay", run_to_completion=True, timeout=0.25 if reason == "timeout" else None)
    async def pay(call: sockrpc.Call) -> bytes:
        call.on_abort(lambda: log.append(call.abort_reason))
        return await work(call)

    async with serving(app, stop_grace=0.05) as here, await here.raw() as raw:
        await raw.send(request(1, "pay"))
        await until(lambda: work.calls)
        if reset_before:
            await raw.send(reset(1))
            await raw.synchronize()
            assert work.cancels == []
        if reason == "stop":
            here.server.close()
        await until(lambda: here.server.statistics().calls_running == 0)
    assert (work.cancels, work.reasons, log) == ([1], [reason], [reason])


@pytest.mark.both_protocols
@pytest.mark.row(21)
@pytest.mark.parametrize("how", ["unwinds", "raises"])
async def test_the_end_of_the_grace_ends_a_hook(how: str, caplog: pytest.LogCaptureFixture) -> None:
    """What was not undone by then never will be; an error of the hook is logged, as ever."""
    app = sockrpc.App()
    log: list[str] = []
    running = asyncio.Event()

    async def hook() -> None:
        log.append("begun")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            log.append("cancelled")
            if how == "raises":
                raise ValueError("cannot undo") from None
            raise

    @app.method("work")
    async def work(call: sockrpc.Call) -> None:
        call.on_abort(hook)
        running.set()
        await asyncio.sleep(60)

    async with serving(app, stop_grace=0.05, abort_grace=60) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        await running.wait()
        await raw.send(reset(1))
        await until(lambda: log)
        here.server.close()
        await raw.close()
        async with asyncio.timeout(PATIENCE):
            await here.server.wait_closed()
        assert here.server.statistics().calls_running == 0
    assert log == ["begun", "cancelled"]
    assert ("cannot undo" in caplog.text) == (how == "raises")
