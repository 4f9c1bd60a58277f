"""Work with a time of its own: methods with a timeout, and those that run to completion."""

from __future__ import annotations

import asyncio
import gc

import pytest

import sockrpc
from tests.kit.support import CLOSE, frame, request, reset, serving, until
from tests.kit.work import Work


@pytest.mark.row(18)
@pytest.mark.parametrize("ending", ["reset", "lost", "closed"])
async def test_work_that_runs_to_completion_ignores_resets_and_losses(ending: str) -> None:
    """What must finish finishes; only its answer is dropped."""
    work = Work()
    app = sockrpc.App()
    said: list[bool] = []

    @app.method("pay", run_to_completion=True)
    async def pay(call: sockrpc.Call) -> None:
        await work(call)
        said.append(await call.respond(b"receipt"))

    async with serving(app, max_in_flight=1) as here, await here.raw() as raw:
        await raw.send(request(1, "pay"))
        await until(lambda: work.calls)
        if ending == "reset":
            await raw.send(reset(1), request(1, "pay"))
            await raw.synchronize()
            statistics = here.server.statistics()
            # It counts until it has ended.
            assert (statistics.calls_running, statistics.procedures_waiting) == (1, 1)
            await raw.send(reset(1))
            await raw.synchronize()
            assert here.server.statistics().procedures_waiting == 0
        elif ending == "lost":
            raw.reset_line()
        else:
            await raw.send(frame(CLOSE))
            await raw.closing()
        await until(lambda: here.server.statistics().calls_in_flight == 0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert (work.ended, work.cancels) == (0, [])
        work.may_answer.set()
        await until(lambda: here.server.statistics().calls_running == 0)
        if ending == "reset":
            await raw.synchronize()
        statistics = here.server.statistics()
        assert (statistics.calls_answered, statistics.calls_failed) == (0, 0)
    assert (said, work.ended, work.cancels) == ([False], 1, [])


async def test_work_that_runs_to_completion_is_answered_if_nobody_resets_it() -> None:
    work = Work()
    async with serving(work.app(run_to_completion=True)) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        await until(lambda: work.calls)
        work.may_answer.set()
        assert await raw.answer() == (1, b"answer")
        await raw.synchronize()


@pytest.mark.row(18, 21)
@pytest.mark.parametrize("line", ["open", "reset", "lost"])
async def test_a_stop_waits_for_work_that_runs_to_completion(line: str) -> None:
    """Row 18, row 21: within the grace, also where its connection is gone."""
    work = Work()
    async with serving(work.app(run_to_completion=True), stop_grace=60) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        await until(lambda: work.calls)
        if line == "reset":
            await raw.send(reset(1))
            await raw.synchronize()
        elif line == "lost":
            await raw.close()
            await until(lambda: not here.server.connections)
        here.server.close()
        if line == "reset":
            # Nothing is left to be answered.
            assert await raw.closing() == (1001, "server stopping")
            await raw.close()
        waiting = asyncio.ensure_future(here.server.wait_closed())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not waiting.done()
        work.may_answer.set()
        if line == "open":
            assert await raw.answer() == (1, b"answer")
            assert await raw.closing() == (1001, "server stopping")
            await raw.close()
        await waiting
    assert (work.ended, work.cancels) == (1, [])


@pytest.mark.both_protocols
@pytest.mark.row(18)
@pytest.mark.parametrize("line", ["open", "reset", "lost"])
async def test_the_end_of_the_grace_aborts_work_that_runs_to_completion(line: str) -> None:
    """That it does not ignore; one cancel, and time to unwind."""
    work = Work()
    work.may_unwind.clear()
    async with serving(work.app(run_to_completion=True), stop_grace=0.05, abort_grace=60) as here:
        raw = await here.raw()
        await raw.send(request(1, "work"))
        await until(lambda: work.calls)
        if line == "reset":
            await raw.send(reset(1))
            await raw.synchronize()
        elif line == "lost":
            await raw.close()
            await until(lambda: not here.server.connections)
        here.server.close()
        assert work.cancels == []
        await until(lambda: work.cancels)
        await raw.close()
        assert here.server.statistics().calls_running == 1
        work.may_unwind.set()
        await here.server.wait_closed()
    assert (work.ended, work.cancels, work.reasons) == (1, [1], ["stop"])


@pytest.mark.row(18)
@pytest.mark.parametrize("completes", [False, True], ids=["ordinary", "run to completion"])
async def test_the_timeout_of_a_method(completes: bool) -> None:
    """Its own timeout aborts work that runs to completion too, with one cancel."""
    work = Work()
    work.may_unwind.clear()
    async with (
        serving(work.app(timeout=0.05, run_to_completion=completes)) as here,
        await here.raw() as raw,
    ):
        await raw.send(request(1, "work"))
        await until(lambda: work.cancels)
        statistics = here.server.statistics()
        assert (statistics.calls_timed_out, statistics.calls_in_flight, statistics.calls_running) == (1, 0, 1)
        # Nobody is told; and its id is free.
        await raw.send(reset(1), request(1, "echo", b"x"))
        assert await raw.answer() == (1, b"x")
        work.may_unwind.set()
        await until(lambda: here.server.statistics().calls_running == 0)
        await raw.synchronize()
        assert (here.server.statistics().calls_reset, here.server.statistics().calls_failed) == (0, 0)
    assert (work.cancels, work.reasons) == ([1], ["timeout"])


async def test_a_timeout_that_is_not_over_does_nothing() -> None:
    work = Work()
    async with serving(work.app(timeout=0.1)) as here, await here.raw() as raw:
        work.may_answer.set()
        await raw.send(*(request(id, "work") for id in range(3)))
        assert sorted([(await raw.answer())[0] for _ in range(3)]) == [0, 1, 2]
        await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0.2))])
        assert here.server.statistics().calls_timed_out == 0
    assert work.cancels == []


@pytest.mark.both_protocols
@pytest.mark.row(18)
async def test_the_timeout_goes_on_after_a_reset_of_work_that_runs_to_completion() -> None:
    """A reset does not take its timeout away."""
    work = Work()
    async with (
        serving(work.app(timeout=0.2, run_to_completion=True)) as here,
        await here.raw() as raw,
    ):
        await raw.send(request(1, "work"))
        await until(lambda: work.calls)
        await raw.send(reset(1))
        await raw.synchronize()
        assert work.cancels == []
        await until(lambda: here.server.statistics().calls_running == 0)
        # It was counted as what it was first.
        statistics = here.server.statistics()
        assert (statistics.calls_reset, statistics.calls_timed_out) == (1, 0)
    assert (work.cancels, work.reasons) == ([1], ["timeout"])


@pytest.mark.both_protocols
@pytest.mark.row(6)
async def test_a_timeout_does_not_cancel_what_a_reset_has_cancelled() -> None:
    """The clean-up may outlast the timeout of the method."""
    work = Work()
    work.may_unwind.clear()
    async with serving(work.app(timeout=0.15)) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        await until(lambda: work.calls)
        await raw.send(reset(1))
        await until(lambda: work.cancels)
        await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0.3))])
        assert (work.cancels, work.ended) == ([1], 0)
        work.may_unwind.set()
        await until(lambda: work.ended == 1)
        assert here.server.statistics().calls_timed_out == 0
    assert work.reasons == ["reset"]


async def test_work_that_runs_to_completion_does_so_after_its_answer_too() -> None:
    work = Work()
    app = sockrpc.App()

    @app.method("pay", run_to_completion=True)
    async def pay(call: sockrpc.Call) -> None:
        assert await call.respond(b"early")
        await work(call)

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "pay"))
        assert await raw.answer() == (1, b"early")
        await until(lambda: work.calls)
        raw.reset_line()
        await until(lambda: not here.server.connections)
        for _ in range(20):
            await asyncio.sleep(0)
        assert (work.ended, work.cancels) == (0, [])
        work.may_answer.set()
        await until(lambda: here.server.statistics().calls_running == 0)
    assert (work.ended, work.cancels) == (1, [])


@pytest.mark.parametrize("ending", ["answered", "reset"])
async def test_the_timeout_holds_nothing_of_a_call_that_is_over(ending: str) -> None:
    """It may be an hour away, and the payload large."""
    work = Work()
    async with serving(work.app(timeout=3600.0)) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        await until(lambda: work.calls)
        if ending == "answered":
            work.may_answer.set()
            assert await raw.answer() == (1, b"answer")
        else:
            await raw.send(reset(1))
        await until(lambda: here.server.statistics().calls_running == 0)
        await raw.synchronize()
        work.calls.clear()
        gc.collect()
        assert not [each for each in gc.get_objects() if isinstance(each, sockrpc.Call)]


async def test_the_timeout_covers_work_that_goes_on_after_its_answer() -> None:
    app = sockrpc.App()
    log: list[object] = []

    @app.method("work", timeout=0.1)
    async def work(call: sockrpc.Call) -> None:
        assert await call.respond(b"early")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            log.append((call.is_reset, call.abort_reason))
            raise

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        assert await raw.answer() == (1, b"early")
        await until(lambda: here.server.statistics().calls_running == 0)
        await raw.synchronize()
        assert here.server.statistics().calls_timed_out == 0
    assert log == [(False, None)]
