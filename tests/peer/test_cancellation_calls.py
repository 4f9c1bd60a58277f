"""What a handler can do with its call: answer it, delegate its abort, and wait for that."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import sockrpc
from tests.kit.support import request, reset, serving, until
from tests.kit.work import Stubborn, Work


async def test_respond_says_whether_the_answer_was_queued() -> None:
    work = Work()
    app = sockrpc.App()
    said: list[bool] = []

    @app.method("work")
    async def handler(call: sockrpc.Call) -> None:
        try:
            await work(call)
        except asyncio.CancelledError:
            said.append(await call.respond(b"too late"))
            said.append(await call.respond(b"even later"))
            raise
        said.append(await call.respond(b"in time"))

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        await until(lambda: work.calls)
        await raw.send(reset(1))
        await until(lambda: here.server.statistics().calls_running == 0)
        await raw.synchronize()
        assert said == [False, False]
        work.may_answer.set()
        await raw.send(request(1, "work"))
        assert await raw.answer() == (1, b"in time")
        assert said == [False, False, True]
        await raw.synchronize()


async def test_a_second_answer_is_a_usage_error(caplog: pytest.LogCaptureFixture) -> None:
    app = sockrpc.App()

    @app.method("twice")
    async def twice(call: sockrpc.Call) -> None:
        assert await call.respond(b"first")
        with pytest.raises(sockrpc.UsageError, match="over"):
            await call.respond(b"second")

    @app.method("both")
    async def both(call: sockrpc.Call) -> bytes:
        await call.respond(b"responded")
        return b"returned"

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "twice"))
        assert await raw.answer() == (1, b"first")
        await raw.send(request(1, "both"))
        assert await raw.answer() == (1, b"responded")
        await raw.synchronize()
        assert (here.server.statistics().calls_answered, here.server.statistics().calls_failed) == (2, 0)
    (record,) = caplog.records
    assert "'both'" in record.getMessage()


async def test_respond_refuses_what_can_not_be_sent_and_the_call_stays_open() -> None:
    app = sockrpc.App()

    @app.method("odd")
    async def odd(call: sockrpc.Call) -> None:
        value: Any = 1
        with pytest.raises(TypeError):
            await call.respond(value)
        await call.respond("fine")

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "odd"))
        assert await raw.answer() == (1, b"fine")


@pytest.mark.both_protocols
@pytest.mark.row(6)
async def test_spawned_work_is_aborted_with_its_call_and_may_answer_it() -> None:
    """One reset cancels each task once; the call counts until all of them have ended."""
    work = Work()
    app = sockrpc.App()

    @app.method("spawn")
    def spawn(call: sockrpc.Call) -> None:
        async def answer() -> None:
            await call.respond(await work(call))

        call.spawn_and_abort_on_reset(answer())
        call.spawn_and_abort_on_reset(work(call))

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "spawn"))
        await until(lambda: len(work.calls) == 2)
        work.may_unwind.clear()
        await raw.send(reset(1), reset(1))
        await until(lambda: len(work.cancels) == 2)
        await raw.synchronize()
        assert here.server.statistics().calls_running == 1
        work.may_unwind.set()
        await until(lambda: here.server.statistics().calls_running == 0)
        await raw.synchronize()
        work.may_answer.set()
        await raw.send(request(1, "spawn"))
        assert await raw.answer() == (1, b"answer")
        await until(lambda: here.server.statistics().calls_running == 0)
        assert here.server.statistics().calls_failed == 0
    assert work.cancels == [1, 1]


async def test_work_that_is_spawned_on_an_aborted_call_never_begins() -> None:
    app = sockrpc.App()
    log: list[object] = []
    running = asyncio.Event()

    async def never() -> None:
        log.append("begun")

    @app.method("work")
    async def work(call: sockrpc.Call) -> None:
        running.set()
        try:
            await asyncio.sleep(60)
        finally:
            log.append(await asyncio.wait([call.spawn_and_abort_on_reset(never())]) and "ended")
            log.append(await call.abort_on_reset(never()))

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        await running.wait()
        await raw.send(reset(1))
        await until(lambda: here.server.statistics().calls_running == 0)
    assert log == ["ended", None]


async def test_spawning_on_a_call_that_is_over_is_a_usage_error() -> None:
    app = sockrpc.App()
    calls: list[sockrpc.Call] = []

    @app.method("work")
    async def work(call: sockrpc.Call) -> bytes:
        calls.append(call)
        return b"answer"

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        assert await raw.answer() == (1, b"answer")
        with pytest.raises(sockrpc.UsageError):
            calls[0].spawn_and_abort_on_reset(asyncio.sleep(0))
        with pytest.raises(sockrpc.UsageError):
            await calls[0].abort_on_reset(asyncio.sleep(0))
        with pytest.raises(sockrpc.UsageError):
            await calls[0].respond(b"again")


async def test_spawned_work_that_raises_fails_the_call_and_ends_the_rest(
    caplog: pytest.LogCaptureFixture,
) -> None:
    work = Work()
    app = sockrpc.App()

    @app.method("spawn")
    def spawn(call: sockrpc.Call) -> None:
        async def fail() -> None:
            await until(lambda: work.calls)
            raise ValueError("spawned")

        call.spawn_and_abort_on_reset(work(call))
        call.spawn_and_abort_on_reset(fail())

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "spawn"))
        await until(lambda: work.ended == 1)
        await until(lambda: here.server.statistics().calls_running == 0)
        assert here.server.statistics().calls_failed == 1
        await raw.synchronize()
    assert (work.cancels, work.reasons) == ([1], [None])
    assert [record.exc_text is not None for record in caplog.records] == [True]


async def test_abort_on_reset_gives_the_result_or_none_and_passes_exceptions(
    caplog: pytest.LogCaptureFixture,
) -> None:
    work = Work()
    app = sockrpc.App()
    log: list[object] = []

    async def fail() -> None:
        await asyncio.sleep(0)
        raise KeyError("mine")

    @app.method("delegate")
    async def delegate(call: sockrpc.Call) -> bytes:
        try:
            await call.abort_on_reset(fail())
        except KeyError:
            log.append("passed on")
        result = await call.abort_on_reset(work(call))
        task = asyncio.current_task()
        assert task is not None
        log.append((result, task.cancelling(), work.ended))
        # The handler goes on undisturbed, as long as it likes.
        await asyncio.sleep(0)
        log.append("went on")
        return b"no result" if result is None else result

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "delegate"))
        await until(lambda: work.calls)
        work.may_unwind.clear()
        await raw.send(reset(1))
        await until(lambda: work.cancels)
        assert log == ["passed on"]
        work.may_unwind.set()
        await until(lambda: here.server.statistics().calls_running == 0)
        await raw.synchronize()
        assert log == ["passed on", (None, 0, 1), "went on"]
        work.may_answer.set()
        await raw.send(request(2, "delegate"))
        assert await raw.answer() == (2, b"answer")
        assert log[-2:] == [(b"answer", 0, 2), "went on"]
    assert (work.cancels, caplog.records) == ([1], [])


@pytest.mark.both_protocols
@pytest.mark.row(8)
async def test_abort_on_reset_drops_the_value_of_work_that_swallows_its_cancel() -> None:
    """It was aborted, whatever it says."""
    stubborn = Stubborn()
    app = sockrpc.App()
    results: list[object] = []

    @app.method("delegate")
    async def delegate(call: sockrpc.Call) -> None:
        results.append(await call.abort_on_reset(stubborn(call)))

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "delegate"))
        await until(lambda: stubborn.calls)
        await raw.send(reset(1))
        await until(lambda: stubborn.cancels)
        stubborn.may_unwind.set()
        await until(lambda: results)
        await raw.synchronize()
    assert (results, stubborn.cancels) == ([None], [1])


@pytest.mark.both_protocols
@pytest.mark.row(17)
async def test_abort_on_reset_that_is_cancelled_otherwise_ends_its_coroutine_first() -> None:
    """By the handler's own timeout, which stays one; the call is not aborted by it."""
    work = Work()
    app = sockrpc.App()

    @app.method("delegate")
    async def delegate(call: sockrpc.Call) -> bytes:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await call.abort_on_reset(work(call))
        assert (work.ended, call.is_reset) == (1, False)
        return b"gave up"

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "delegate"))
        assert await raw.answer() == (1, b"gave up")
    assert work.cancels == [1]


async def gathered(call: sockrpc.Call, work: Work) -> Any:
    return await asyncio.gather(*(call.abort_on_reset(work(call)) for _ in range(2)))


async def grouped(call: sockrpc.Call, work: Work) -> Any:
    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(call.abort_on_reset(work(call)))


async def nested(call: sockrpc.Call, work: Work) -> Any:
    async def inner() -> Any:
        return await call.abort_on_reset(work(call))

    async def outer() -> Any:
        return await call.abort_on_reset(inner())

    await asyncio.wait([call.spawn_and_abort_on_reset(outer()), call.spawn_and_abort_on_reset(inner())])


async def awaited(call: sockrpc.Call, work: Work) -> Any:
    other = call.spawn_and_abort_on_reset(work(call))
    await call.spawn_and_abort_on_reset(work(call))
    await other


@pytest.mark.both_protocols
@pytest.mark.row(6)
@pytest.mark.parametrize("compose", [gathered, grouped, nested, awaited])
async def test_one_reset_cancels_each_task_once_however_they_are_composed(compose: Any) -> None:
    """Where the reset reaches a coroutine and also whoever waits for it."""
    work = Work()
    work.may_unwind.clear()
    app = sockrpc.App()

    @app.method("compose")
    async def handler(call: sockrpc.Call) -> Any:
        await compose(call, work)

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "compose"))
        await until(lambda: len(work.calls) == 2)
        await raw.send(reset(1))
        await until(lambda: len(work.cancels) == 2)
        await raw.synchronize()
        for _ in range(10):
            await asyncio.sleep(0)
        assert work.ended == 0, "a second cancel has cut the unwinding short"
        work.may_unwind.set()
        await until(lambda: here.server.statistics().calls_running == 0)
        assert here.server.statistics().calls_failed == 0
    assert (work.cancels, work.ended) == ([1, 1], 2)


@pytest.mark.parametrize("ending", ["reset", "loss"])
async def test_wait_reset_is_how_the_abort_reaches_the_handler_that_waits_there(ending: str) -> None:
    app = sockrpc.App()
    log: list[object] = []
    waiting = asyncio.Event()

    @app.method("work")
    async def work(call: sockrpc.Call) -> bytes:
        waiting.set()
        await call.wait_reset()
        task = asyncio.current_task()
        assert task is not None
        log.append((call.is_reset, call.abort_reason, task.cancelling()))
        await asyncio.sleep(0)
        # Once more: it is reset already.
        await call.wait_reset()
        log.append("went on")
        return b"too late"

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        await waiting.wait()
        if ending == "reset":
            await raw.send(reset(1))
            await raw.synchronize()
        else:
            await raw.close()
        await until(lambda: here.server.statistics().calls_running == 0)
    assert log == [(True, "reset" if ending == "reset" else "lost", 0), "went on"]


async def test_wait_reset_in_another_task_wakes_it_and_the_handler_is_cancelled() -> None:
    work = Work()
    app = sockrpc.App()
    log: list[object] = []

    async def watch(call: sockrpc.Call) -> None:
        await call.wait_reset()
        log.append(call.abort_reason)

    @app.method("work")
    async def handler(call: sockrpc.Call) -> None:
        watchers = [asyncio.ensure_future(watch(call)) for _ in range(2)]
        gives_up = asyncio.ensure_future(watch(call))
        await asyncio.sleep(0)
        gives_up.cancel()
        try:
            await work(call)
        finally:
            await asyncio.wait([*watchers, gives_up])

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        await until(lambda: work.calls)
        await raw.send(reset(1))
        await until(lambda: here.server.statistics().calls_running == 0)
    assert (log, work.cancels) == (["reset"] * 2, [1])
