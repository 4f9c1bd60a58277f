"""Cancellation as the side that runs the work sees it: one reset, one cancel, by identity."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import sockrpc
from tests.kit.support import notify, request, reset, serving, until
from tests.kit.work import Stubborn, Work


@pytest.mark.row(1)
async def test_a_reset_of_an_id_that_is_not_in_flight_has_no_effect() -> None:
    """Unknown, answered, already reset; none is an error."""
    work = Work()
    async with serving(work.app()) as here, await here.raw() as raw:
        await raw.send(reset(0), reset(2**32 - 1))
        await raw.send(request(1, "echo", b"x"), reset(1), reset(1))
        assert await raw.answer() == (1, b"x")
        await raw.send(request(2, "work"))
        await until(lambda: work.calls)
        await raw.send(reset(2), reset(2), reset(1), reset(3))
        await raw.synchronize()
        await until(lambda: work.ended == 1)
        await raw.send(reset(2))
        await raw.synchronize()
        statistics = here.server.statistics()
        assert (statistics.calls_reset, statistics.calls_answered, statistics.calls_failed) == (1, 1, 0)
    assert work.cancels == [1]


async def test_a_reset_of_the_call_that_waits_first_lets_start_what_waits_behind_it() -> None:
    work = Work()
    app = work.app()
    heard: list[bytes] = []
    app.on("note")(lambda notification: heard.append(notification.payload))
    async with serving(app, max_in_flight=1) as here, await here.raw() as raw:
        await raw.send(request(1, "work"), request(2, "work"), notify("note", b"x"))
        await until(lambda: here.server.statistics().procedures_waiting == 2)
        await raw.send(reset(2))
        await until(lambda: heard == [b"x"])
        assert here.server.statistics().calls_running == 1


@pytest.mark.row(2)
async def test_a_reset_that_lands_between_the_return_and_the_answer() -> None:
    """One state change decides; either there is an answer or the call counts as reset."""
    app = sockrpc.App()
    may_return = asyncio.Event()

    @app.method("work")
    async def work(call: sockrpc.Call) -> bytes:
        await may_return.wait()
        return b"answer"

    async with serving(app) as here, await here.raw() as raw:
        with raw.writer.get_extra_info("socket").dup() as line:
            for id in range(50):
                may_return.clear()
                await raw.send(request(id, "work"))
                await raw.synchronize()
                # The reset is in the server's socket before the handler's last step runs; on asyncio it
                # is parsed after that step and before the callback that would send the answer.
                line.send(reset(id))
                may_return.set()
                before = here.server.statistics()
                await until(lambda: here.server.statistics().calls_running == 0)
                after = here.server.statistics()
                answered = after.calls_answered - before.calls_answered
                assert answered + after.calls_reset - before.calls_reset == 1
                if answered:
                    assert await raw.answer() == (id, b"answer")
                await raw.synchronize()
        assert here.server.statistics().calls_failed == 0


@pytest.mark.row(3)
async def test_an_id_that_is_used_again_while_the_old_work_unwinds() -> None:
    """The second work answers the second call, whenever and however the first one ends."""
    app = sockrpc.App()
    ended: list[bytes] = []
    may_end = {b"first": asyncio.Event(), b"second": asyncio.Event(), b"third": asyncio.Event()}

    @app.method("work")
    async def work(call: sockrpc.Call) -> bytes:
        while not may_end[call.payload].is_set():
            try:
                await may_end[call.payload].wait()
            except asyncio.CancelledError:
                ended.append(call.payload)
        return b"answer of " + call.payload

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "work", b"first"))
        await raw.send(reset(1), request(1, "work", b"second"))
        await raw.synchronize()
        may_end[b"first"].set()
        await until(lambda: here.server.statistics().calls_running == 1)
        await raw.synchronize()
        assert here.server.statistics().calls_in_flight == 1
        # The second call is resettable, also after the first one's work has ended.
        await raw.send(reset(1), request(1, "work", b"third"))
        await raw.synchronize()
        await until(lambda: b"second" in ended)
        may_end[b"third"].set()
        assert await raw.answer() == (1, b"answer of third")
        may_end[b"second"].set()
        await until(lambda: here.server.statistics().calls_running == 0)
        await raw.synchronize()
    assert set(ended) <= {b"first", b"second"}
    assert ended.count(b"second") == 1


@pytest.mark.row(5)
async def test_a_reset_takes_a_call_out_of_the_queue_wherever_it_stands() -> None:
    """The first, the last and one in the middle; the others start in order."""
    work = Work()
    async with serving(work.app(), max_in_flight=1) as here, await here.raw() as raw:
        await raw.send(request(0, "work"), *(request(id, "echo", b"%d" % id) for id in range(1, 8)))
        await raw.send(reset(1), reset(4), reset(7), reset(4))
        await raw.synchronize()
        statistics = here.server.statistics()
        assert (statistics.procedures_waiting, statistics.calls_reset) == (4, 3)
        # An id that left the queue is free.
        await raw.send(request(4, "echo", b"again"))
        work.may_answer.set()
        answers = [await raw.answer() for _ in range(6)]
        assert answers == [(0, b"answer"), (2, b"2"), (3, b"3"), (5, b"5"), (6, b"6"), (4, b"again")]
        await raw.synchronize()
        assert here.server.statistics().calls_started == 6


@pytest.mark.both_protocols
@pytest.mark.row(5)
async def test_a_reset_takes_a_call_that_waits_for_on_connect() -> None:
    """Before the application has let the connection in."""
    work = Work()
    app = work.app()
    may_connect = asyncio.Event()

    @app.on_connect
    async def connected(socket: sockrpc.Socket) -> None:
        await may_connect.wait()

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "work"), request(2, "echo", b"x"), reset(1), request(1, "echo", b"y"))
        await raw.synchronize()
        statistics = here.server.statistics()
        assert (statistics.procedures_waiting, statistics.calls_reset) == (2, 1)
        may_connect.set()
        assert [await raw.answer(), await raw.answer()] == [(2, b"x"), (1, b"y")]
        await raw.synchronize()
    assert work.calls == []


@pytest.mark.row(5, 12)
async def test_resets_are_acted_on_while_output_is_blocked() -> None:
    """Row 12, row 5: of running calls and of those that wait because nobody reads their answers."""
    work = Work()
    app = work.app()
    app.method("large")(lambda call: bytes(1024 * 1024))
    async with serving(app, output_high_bytes=65536, output_low_bytes=0) as here, await here.raw() as raw:
        await raw.send(request(0, "work"))
        await raw.send(*(request(id, "large") for id in range(1, 65)))
        await until(lambda: here.server.statistics().procedures_waiting > 0)
        waiting = here.server.statistics().procedures_waiting
        await raw.send(request(100, "work"), reset(100), reset(0), reset(64))
        await until(lambda: here.server.statistics().calls_reset == 3)
        await until(lambda: work.ended == 1)
        assert here.server.statistics().procedures_waiting == waiting - 1
        assert len(work.calls) == 1
        answers = [await raw.answer() for _ in range(63)]
        assert [id for id, _ in answers] == list(range(1, 64))
        await raw.synchronize()


@pytest.mark.row(12)
async def test_a_handler_that_does_not_end_delays_no_reset() -> None:
    """The receive loop waits for nobody, and data before the reset does not hide it."""
    work, stubborn = Work(), Stubborn()
    app = work.app()
    app.method("stubborn")(stubborn)
    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "stubborn"), reset(1), request(2, "work"))
        await raw.send(request(3, "echo", bytes(1024 * 1024)), reset(2))
        assert await raw.answer() == (3, bytes(1024 * 1024))
        await raw.synchronize()
        await until(lambda: work.ended == 1)
        assert stubborn.ended == 0
        stubborn.may_unwind.set()


@pytest.mark.row(6)
async def test_one_reset_is_one_cancel_whatever_else_happens_meanwhile() -> None:
    """Resets, the loss of the connection and the end of the server add no second one."""
    work = Work()
    work.may_unwind.clear()
    async with serving(work.app()) as here:
        async with await here.raw() as raw:
            await raw.send(request(1, "work"))
            await until(lambda: work.calls)
            await raw.send(reset(1), reset(1))
            await until(lambda: work.cancels)
            await raw.send(reset(1))
            await raw.synchronize()
        await until(lambda: not here.server.connections)
        here.server.close()
        for _ in range(5):
            await asyncio.sleep(0)
        assert (work.cancels, work.ended) == ([1], 0)
        work.may_unwind.set()
        await until(lambda: work.ended == 1)
    assert work.cancels == [1]
    assert work.reasons == ["reset"]
    assert work.calls[0].abort_reason == "reset"


@pytest.mark.both_protocols
@pytest.mark.row(6)
async def test_timeouts_and_task_groups_inside_the_handler_are_not_misled() -> None:
    """A group ends its children, and a timeout in the clean-up is its own."""
    app = sockrpc.App()
    log: list[object] = []
    running = asyncio.Event()

    async def child() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            log.append("child")
            raise

    @app.method("work")
    async def work(call: sockrpc.Call) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(child())
                await asyncio.sleep(0)
                running.set()
                await asyncio.sleep(60)
        except BaseException as error:
            log.append((type(error), task.cancelling()))
            try:
                async with asyncio.timeout(0.01):
                    await asyncio.sleep(60)
            except TimeoutError:
                log.append("the clean-up's own timeout")
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(0))
            log.append("cleaned up")
            raise

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        await running.wait()
        await raw.send(reset(1))
        await until(lambda: here.server.statistics().calls_running == 0)
        await raw.synchronize()
        assert here.server.statistics().calls_failed == 0
    assert log == [
        *["child"] * 3,
        (asyncio.CancelledError, 1),
        "the clean-up's own timeout",
        "cleaned up",
    ]


async def awaits_a_cancelled_task(call: sockrpc.Call) -> None:
    task = asyncio.ensure_future(asyncio.sleep(60))
    asyncio.get_running_loop().call_soon(task.cancel)
    await task


async def raises_at_once(call: sockrpc.Call) -> None:
    raise asyncio.CancelledError


async def raises_later(call: sockrpc.Call) -> None:
    await asyncio.sleep(0)
    raise asyncio.CancelledError


def raises_inline(call: sockrpc.Call) -> None:
    raise asyncio.CancelledError


async def cancels_itself(call: sockrpc.Call) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


@pytest.mark.both_protocols
@pytest.mark.row(7)
@pytest.mark.parametrize(
    "handler", [awaits_a_cancelled_task, raises_at_once, raises_later, raises_inline, cancels_itself]
)
async def test_a_cancelled_error_without_an_abort_is_a_failure(
    handler: Callable[[sockrpc.Call], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Logged and counted, not silence taken for an abort."""
    app = sockrpc.App()
    app.method("guilty")(handler)
    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "guilty"))
        await until(lambda: here.server.statistics().calls_failed == 1)
        await raw.synchronize()
        statistics = here.server.statistics()
        assert (statistics.calls_in_flight, statistics.calls_running, statistics.calls_reset) == (0, 0, 0)
    (record,) = caplog.records
    assert "'guilty'" in record.getMessage()


@pytest.mark.row(8)
@pytest.mark.parametrize("how", ["returns", "raises"])
async def test_work_that_swallows_its_cancel_is_not_answered(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The value is dropped, an exception only logged; the slot is held until the task ends."""
    stubborn = Stubborn()
    app = stubborn.app()

    @app.method("raise")
    async def raises(call: sockrpc.Call) -> None:
        await stubborn(call)
        raise ValueError("in the clean-up")

    async with serving(app, max_in_flight=1) as here, await here.raw() as raw:
        await raw.send(request(1, "work" if how == "returns" else "raise"))
        await until(lambda: stubborn.calls)
        await raw.send(reset(1), request(1, "echo", b"next"))
        await raw.synchronize()
        await until(lambda: stubborn.cancels)
        statistics = here.server.statistics()
        assert (statistics.calls_running, statistics.procedures_waiting) == (1, 1)
        stubborn.may_unwind.set()
        assert await raw.answer() == (1, b"next")
        await raw.synchronize()
        assert here.server.statistics().calls_failed == 0
    assert ("in the clean-up" in caplog.text) == (how == "raises")


@pytest.mark.both_protocols
@pytest.mark.row(9)
async def test_clean_up_may_wait() -> None:
    """One cancel, and then it takes the time it needs."""
    work = Work()
    work.may_unwind.clear()
    async with serving(work.app()) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        await until(lambda: work.calls)
        await raw.send(reset(1))
        await until(lambda: work.cancels)
        for _ in range(20):
            await raw.synchronize()
        assert work.ended == 0
        assert here.server.statistics().calls_running == 1
        work.may_unwind.set()
        await until(lambda: here.server.statistics().calls_running == 0)
        await raw.synchronize()
    assert (work.cancels, work.ended) == ([1], 1)


@pytest.mark.row(11)
async def test_a_flood_of_requests_and_resets_is_bounded() -> None:
    """Aborted work counts until it has ended, so no more than max_in_flight ever runs."""
    stubborn = Stubborn()
    async with serving(stubborn.app(), max_in_flight=8) as here, await here.raw() as raw:
        for first in range(0, 1000, 100):
            await raw.send(*(request(id, "work") + reset(id) for id in range(first, first + 100)))
            await raw.synchronize()
        await until(lambda: len(stubborn.cancels) == len(stubborn.calls))
        statistics = here.server.statistics()
        assert statistics.calls_reset == 1000
        # On 3.11 a task that was reset before its first step has ended by now.
        assert statistics.calls_running == len(stubborn.calls) <= 8
        assert (statistics.procedures_waiting, statistics.calls_in_flight) == (0, 0)
        await raw.send(*(request(id, "work") for id in range(8)))
        await raw.synchronize()
        await until(lambda: len(stubborn.calls) == 8)
        await raw.send(*(reset(id) for id in range(8)), request(8, "echo", b"at last"))
        await raw.synchronize()
        assert here.server.statistics().procedures_waiting == 1
        stubborn.may_unwind.set()
        assert await raw.answer() == (8, b"at last")
    assert stubborn.ended == 8
