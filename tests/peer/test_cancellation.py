"""Cancellation: the table of what goes wrong elsewhere, and resets in the same read as their requests.

The other files named test_cancellation_*.py belong to it.
"""

from __future__ import annotations

import ast
import re
import sys
import threading
from pathlib import Path

import pytest

import sockrpc
from tests.kit.support import request, reset, serving, until
from tests.kit.work import Work

# What goes wrong with cancellation in systems that do the same job, and the tests of it here; a test
# says in its docstring which rows it is about. Row 16 (one AbortSignal, many calls) is the browser's.
ROWS: dict[int, tuple[str, ...]] = {
    1: (
        "test_reset_in_the_same_read_comes_too_late_for_work_that_never_waits",
        "test_an_answer_that_crosses_the_reset_is_dropped",
        "test_an_answer_to_what_was_never_asked_is_dropped",
        "test_no_reset_follows_our_own_close_frame",
        "test_a_reset_of_an_id_that_is_not_in_flight_has_no_effect",
        "test_wait_reset_and_respond_on_a_call_that_is_held",
    ),
    2: (
        "test_a_cancel_that_lands_between_the_answer_and_the_waiter",
        "test_answers_before_the_loss_in_the_same_read_count",
        "test_a_reset_that_lands_between_the_return_and_the_answer",
    ),
    3: (
        "test_reset_in_the_same_read_as_its_request_and_a_second_request_of_the_same_id",
        "test_ids_count_up_from_one_and_wrap_past_those_in_flight",
        "test_both_ends_agree_that_a_cancelled_call_is_over",
        "test_an_id_that_is_used_again_while_the_old_work_unwinds",
        "test_an_id_that_is_used_again_while_the_old_thread_runs",
    ),
    4: (
        "test_reset_in_the_same_read_as_its_request",
        "test_reset_in_the_same_read_as_a_request_that_has_to_wait",
        "test_reset_in_the_same_read_as_a_request_for_a_thread",
        "test_reset_in_the_same_read_as_a_request_that_runs_to_completion",
        "test_reset_in_the_same_read_as_a_request_that_the_iterator_has_not_taken",
        "test_reset_in_the_same_read_as_a_request_whose_handler_delegates",
        "test_reset_in_the_same_read_as_its_request_and_a_second_request_of_the_same_id",
        "test_calls_in_the_same_read_as_the_loss",
        "test_the_tutorial_s_form",
        "test_an_abort_in_the_middle_of_the_handler_s_first_step",
    ),
    5: (
        "test_reset_in_the_same_read_as_a_request_that_has_to_wait",
        "test_reset_in_the_same_read_as_a_request_that_the_iterator_has_not_taken",
        "test_a_reset_takes_a_call_out_of_the_queue_wherever_it_stands",
        "test_a_reset_takes_a_call_that_waits_for_on_connect",
        "test_resets_are_acted_on_while_output_is_blocked",
        "test_a_call_that_is_reset_before_it_is_taken_is_not_delivered",
        "test_no_call_starts_while_the_server_stops",
        "test_a_reset_withdraws_a_call_that_waits_for_a_thread",
    ),
    6: (
        "test_spawned_work_is_aborted_with_its_call_and_may_answer_it",
        "test_one_reset_cancels_each_task_once_however_they_are_composed",
        "test_a_waiter_that_is_cancelled_is_one_reset_at_once",
        "test_both_ends_agree_that_a_cancelled_call_is_over",
        "test_a_timeout_does_not_cancel_what_a_reset_has_cancelled",
        "test_one_reset_is_one_cancel_whatever_else_happens_meanwhile",
        "test_timeouts_and_task_groups_inside_the_handler_are_not_misled",
        "test_the_tutorial_s_form",
    ),
    7: (
        "test_a_cancelled_error_without_an_abort_is_a_failure",
        "test_the_end_of_the_coroutine_closes_the_connection_and_aborts_its_calls",
        "test_an_on_connect_hook_that_ends_by_cancelled_error_has_failed",
        "test_a_thread_that_raises_cancelled_error_by_itself_has_failed",
        "test_a_hook_that_raises_is_logged_and_does_not_stop_the_next",
    ),
    8: (
        "test_abort_on_reset_drops_the_value_of_work_that_swallows_its_cancel",
        "test_work_that_swallows_its_cancel_is_not_answered",
        "test_an_error_of_work_that_unwinds_is_logged_and_is_no_second_failure",
    ),
    9: (
        "test_clean_up_may_wait",
        "test_one_cancel_when_the_grace_is_over",
        "test_work_that_does_not_end_is_cancelled_again_named_and_left_behind",
    ),
    10: (
        "test_reset_in_the_same_read_as_a_request_for_a_thread",
        "test_the_reason_of_an_abort",
        "test_neither_a_stuck_thread_nor_a_stubborn_task_keeps_a_stopped_process",
        "test_the_slot_is_taken_until_the_thread_has_ended",
        "test_raise_if_reset_ends_the_thread_silently",
        "test_an_id_that_is_used_again_while_the_old_thread_runs",
        "test_the_timeout_of_a_thread_begins_when_a_thread_takes_the_call",
        "test_a_stuck_thread_does_not_keep_the_stopped_server",
        "test_hooks_run_after_the_thread_has_ended",
    ),
    11: ("test_a_flood_of_requests_and_resets_is_bounded",),
    12: (
        "test_resets_are_acted_on_while_output_is_blocked",
        "test_a_handler_that_does_not_end_delays_no_reset",
    ),
    13: (
        "test_a_waiter_that_is_cancelled_is_one_reset_at_once",
        "test_the_reset_is_written_in_the_iteration_in_which_the_call_is_cancelled",
        "test_a_call_that_is_cancelled_while_output_is_blocked_sends_nothing",
        "test_a_timeout_is_not_held_up_by_blocked_output",
    ),
    14: (
        "test_all_calls_in_flight_fail_at_once",
        "test_calls_fail_when_the_server_stops_answering_pings",
        "test_a_lost_connection_aborts_every_call_on_it",
        "test_a_peer_that_stops_answering_is_found_and_aborted_not_politely_closed",
        "test_a_peer_that_answers_pings_is_not_taken_for_lost",
        "test_calls_in_the_same_read_as_the_loss",
        "test_work_that_goes_on_after_its_answer_ends_with_the_connection",
        "test_the_reason_of_an_abort",
        "test_the_iterator_ends_with_the_connection_after_what_was_received",
        "test_an_iterator_that_waits_ends_at_once_with_the_connection",
        "test_the_end_of_the_coroutine_closes_the_connection_and_aborts_its_calls",
        "test_a_stop_waits_for_calls_that_were_taken_and_aborts_the_others",
        "test_the_end_of_the_grace_aborts_calls_that_were_taken",
        "test_calls_in_flight_are_answered_before_the_close",
        "test_one_cancel_when_the_grace_is_over",
        "test_a_loss_while_the_server_stops_is_a_loss",
        "test_a_loss_by_our_own_close_while_the_server_stops_is_a_loss",
        "test_the_loss_withdraws_calls_that_wait_for_a_thread",
        "test_the_close_does_not_wait_for_work_that_goes_on_after_its_answer",
    ),
    15: (
        "test_all_calls_in_flight_fail_at_once",
        "test_calls_fail_with_what_the_server_did_wrong",
        "test_calls_fail_when_the_server_stops_answering_pings",
        "test_calls_fail_with_connection_closed_when_we_close",
        "test_calls_fail_when_the_server_stops",
        "test_calls_are_never_replayed",
    ),
    17: (
        "test_abort_on_reset_that_is_cancelled_otherwise_ends_its_coroutine_first",
        "test_a_timeout_is_a_timeout_error_and_one_reset",
        "test_a_timeout_of_zero",
        "test_a_timeout_around_the_call",
        "test_a_task_group_that_fails_resets_the_calls_of_its_other_tasks",
        "test_cancelled_error_is_not_replaced_by_the_timeout_that_comes_with_it",
        "test_cancelled_error_is_not_replaced_by_the_loss_that_comes_with_it",
        "test_no_reset_follows_our_own_close_frame",
        "test_cancelling_the_iteration_loses_nothing",
        "test_a_handler_s_own_timeout_is_its_failure_not_an_abort",
    ),
    18: (
        "test_reset_in_the_same_read_as_a_request_that_runs_to_completion",
        "test_work_that_runs_to_completion_ignores_resets_and_losses",
        "test_a_stop_waits_for_work_that_runs_to_completion",
        "test_the_end_of_the_grace_aborts_work_that_runs_to_completion",
        "test_the_timeout_of_a_method",
        "test_the_timeout_goes_on_after_a_reset_of_work_that_runs_to_completion",
        "test_a_notification_handler_goes_on_after_the_loss",
        "test_a_loss_by_our_own_close_while_the_server_stops_is_a_loss",
        "test_a_thread_that_runs_to_completion",
        "test_hooks_of_work_that_runs_to_completion_do_not_run_on_reset_or_loss",
        "test_hooks_of_work_that_runs_to_completion_run_when_it_is_aborted",
    ),
    19: ("test_a_loss_reaches_work_below_middleware_without_polling",),
    20: ("test_a_call_is_one_plain_task_and_a_connection_none",),
    21: (
        "test_calls_fail_when_the_server_stops",
        "test_a_stop_waits_for_work_that_runs_to_completion",
        "test_a_stop_waits_for_calls_that_were_taken_and_aborts_the_others",
        "test_the_stop_waits_for_work_that_unwinds",
        "test_work_that_does_not_end_is_cancelled_again_named_and_left_behind",
        "test_the_end_of_the_grace_aborts_notification_handlers",
        "test_cancelling_wait_closed_does_not_end_the_stopping",
        "test_neither_a_stuck_thread_nor_a_stubborn_task_keeps_a_stopped_process",
        "test_a_stuck_thread_does_not_keep_the_stopped_server",
        "test_the_end_of_the_grace_ends_a_hook",
    ),
    22: (
        "test_a_waiter_that_nobody_refers_to_has_its_answer",
        "test_work_that_nobody_refers_to_is_not_collected",
    ),
}

# A coroutine's first step runs within the read from Python 3.12 on, in the next iteration before.
EAGER = sys.version_info >= (3, 12)

MANY = 100


def documented_tests() -> dict[str, str]:
    """The tests of cancellation and their docstrings."""
    return {
        node.name: ast.get_docstring(node) or ""
        for path in Path(__file__).parent.glob("test_cancellation*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_each_row_has_tests_that_name_it() -> None:
    documented = documented_tests()
    named = {
        row: {name for name, text in documented.items() if re.search(rf"\b[Rr]ow {row}\b", text)}
        for row in range(1, 27)
    }
    assert set(ROWS) == set(range(1, 23)) - {16}
    for row, tests in named.items():
        assert tests == set(ROWS.get(row, ())), f"row {row}"


async def test_reset_in_the_same_read_as_its_request() -> None:
    """Row 4: a task that is cancelled before its first step never enters its body."""
    work = Work()
    async with serving(work.app()) as here, await here.raw() as raw:
        await raw.send(*(request(id, "work") + reset(id) for id in range(MANY)))
        await raw.synchronize()
        assert here.server.statistics().calls_in_flight == 0
        await until(lambda: here.server.statistics().calls_running == 0)
        assert here.server.statistics().calls_reset == MANY
        assert len(work.calls) == work.ended == len(work.cancels)
        assert set(work.cancels) <= {1}
        if EAGER:
            assert work.ended == MANY
        work.may_answer.set()
        await raw.send(*(request(id, "work") for id in range(MANY)))
        assert sorted([await raw.answer() for _ in range(MANY)]) == [(id, b"answer") for id in range(MANY)]


async def test_reset_in_the_same_read_as_a_request_that_has_to_wait() -> None:
    """Row 4, row 5: it never starts, and what waits behind it keeps its order."""
    work = Work()
    async with serving(work.app(), max_in_flight=1) as here, await here.raw() as raw:
        await raw.send(
            request(1, "work"),
            request(2, "work"),
            reset(2),
            request(3, "echo", b"x"),
            request(2, "echo", b"y"),
        )
        await raw.synchronize()
        statistics = here.server.statistics()
        assert (statistics.calls_running, statistics.procedures_waiting, statistics.calls_reset) == (1, 2, 1)
        work.may_answer.set()
        assert [await raw.answer() for _ in range(3)] == [(1, b"answer"), (3, b"x"), (2, b"y")]
        assert len(work.calls) == 1


async def test_reset_in_the_same_read_as_a_request_for_a_thread() -> None:
    """Row 4, row 10: the thread sees it, and its slot is free once it has ended."""
    app = sockrpc.App()
    seen: list[str | None] = []

    @app.method("poll", thread=True)
    def poll(call: sockrpc.Call) -> bytes:
        pause = threading.Event()
        while not call.is_reset:
            pause.wait(0.001)
        seen.append(call.abort_reason)
        return b"too late"

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "poll"), reset(1))
        await until(lambda: here.server.statistics().calls_running == 0)
        await raw.synchronize()
    assert seen == ["reset"]


async def test_reset_in_the_same_read_as_a_request_that_runs_to_completion() -> None:
    """Row 4, row 18: the work goes on, only its answer is dropped."""
    work = Work()
    async with serving(work.app(run_to_completion=True)) as here, await here.raw() as raw:
        await raw.send(request(1, "work"), reset(1))
        await raw.synchronize()
        assert here.server.statistics().calls_in_flight == 0
        await until(lambda: len(work.calls) == 1)
        work.may_answer.set()
        await until(lambda: here.server.statistics().calls_running == 0)
        await raw.synchronize()
    assert (work.ended, work.cancels) == (1, [])


async def test_reset_in_the_same_read_as_a_request_that_the_iterator_has_not_taken() -> None:
    """Row 4, row 5: such a call is not delivered."""
    delivered: list[int] = []

    async def handle_socket(socket: sockrpc.Socket) -> None:
        async for procedure in socket:
            assert isinstance(procedure, sockrpc.Call)
            delivered.append(procedure.id)
            await procedure.respond(b"taken")

    async with serving(handle_socket) as here, await here.raw() as raw:
        await raw.send(request(1, "a"), request(2, "a"), reset(1), request(3, "a"), reset(3))
        assert await raw.answer() == (2, b"taken")
        await raw.send(request(3, "a"))
        assert await raw.answer() == (3, b"taken")
        await raw.synchronize()
        assert here.server.statistics().calls_reset == 2
    assert delivered == [2, 3]


@pytest.mark.parametrize("wait", ["abort_on_reset", "wait_reset", "spawn_and_abort_on_reset"])
async def test_reset_in_the_same_read_as_a_request_whose_handler_delegates(wait: str) -> None:
    """Row 4: the task that the abort goes to instead may not have had its first step either."""
    work = Work()
    app = sockrpc.App()

    @app.method("delegate")
    async def delegate(call: sockrpc.Call) -> None:
        if wait == "abort_on_reset":
            assert await call.abort_on_reset(work(call)) is None
        elif wait == "wait_reset":
            await call.wait_reset()
        else:
            call.spawn_and_abort_on_reset(work(call))

    app.method("echo")(lambda call: call.payload)
    async with serving(app) as here, await here.raw() as raw:
        await raw.send(*(request(id, "delegate") + reset(id) for id in range(MANY)))
        await raw.synchronize()
        await until(lambda: here.server.statistics().calls_running == 0)
        await raw.send(request(MANY, "echo", b"x"))
        assert await raw.answer() == (MANY, b"x")
        statistics = here.server.statistics()
        assert (statistics.calls_reset, statistics.calls_failed) == (MANY, 0)
    # Where the read took so long that others had their turn in the middle of it, one has begun.
    assert len(work.calls) == len(work.cancels) == work.ended < MANY


async def test_reset_in_the_same_read_comes_too_late_for_work_that_never_waits() -> None:
    """Row 1: answered means queued for output; what is parsed after that has no effect."""
    app = sockrpc.App()
    app.method("plain")(lambda call: b"plain")

    @app.method("coroutine")
    async def coroutine(call: sockrpc.Call) -> bytes:
        return b"coroutine"

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "plain"), reset(1), request(1, "plain"))
        assert [await raw.answer(), await raw.answer()] == [(1, b"plain"), (1, b"plain")]
        if EAGER:
            await raw.send(request(2, "coroutine"), reset(2))
            assert await raw.answer() == (2, b"coroutine")
        await raw.synchronize()
        assert here.server.statistics().calls_answered == (3 if EAGER else 2)


async def test_reset_in_the_same_read_as_its_request_and_a_second_request_of_the_same_id() -> None:
    """Row 3, row 4: the second is another call; the first can not answer it nor free its entry."""
    work = Work()
    work.may_unwind.clear()
    app = work.app()

    @app.method("second")
    async def second(call: sockrpc.Call) -> bytes:
        await work.may_answer.wait()
        return b"second"

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "work"), reset(1), request(1, "second"))
        await raw.synchronize()
        assert here.server.statistics().calls_in_flight == 1
        work.may_unwind.set()
        await until(lambda: here.server.statistics().calls_running == 1)
        assert here.server.statistics().calls_in_flight == 1
        work.may_answer.set()
        assert await raw.answer() == (1, b"second")
        await raw.synchronize()
