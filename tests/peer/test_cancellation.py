"""Cancellation: the table of what goes wrong elsewhere, and resets in the same read as their requests.

The other files named test_cancellation_*.py belong to it, in whatever folder.
"""

from __future__ import annotations

import ast
import sys
import threading
from pathlib import Path

import pytest

import sockrpc
from tests.kit.support import request, reset, serving, until
from tests.kit.work import Work

# A coroutine's first step runs within the read from Python 3.12 on, in the next iteration before.
EAGER = sys.version_info >= (3, 12)

MANY = 100


def rows_of_tests() -> dict[str, list[int]]:
    """The rows of the table that each test of cancellation is marked with."""
    return {
        node.name: [
            row
            for mark in node.decorator_list
            if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.row"
            for row in map(ast.literal_eval, mark.args)
        ]
        for path in Path(__file__).parents[1].rglob("test_cancellation*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_each_row_of_the_table_has_tests() -> None:
    # Row 16 (one AbortSignal, many calls) is the browser's.
    assert {row for rows in rows_of_tests().values() for row in rows} == set(range(1, 27)) - {16}


@pytest.mark.both_protocols
@pytest.mark.row(4)
async def test_reset_in_the_same_read_as_its_request() -> None:
    """A task that is cancelled before its first step never enters its body."""
    work = Work()
    async with serving(work.app()) as here, await here.raw() as raw:
        await raw.send(*(request(id, "work") + reset(id) for id in range(1, MANY + 1)))
        await raw.synchronize()
        assert here.server.statistics().calls_in_flight == 0
        await until(lambda: here.server.statistics().calls_running == 0)
        assert here.server.statistics().calls_reset == MANY
        assert len(work.calls) == work.ended == len(work.cancels)
        assert set(work.cancels) <= {1}
        if EAGER:
            assert work.ended == MANY
        work.may_answer.set()
        await raw.send(*(request(id, "work") for id in range(1, MANY + 1)))
        assert sorted([await raw.answer() for _ in range(MANY)]) == [
            (id, b"answer") for id in range(1, MANY + 1)
        ]


@pytest.mark.both_protocols
@pytest.mark.row(4, 5)
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


@pytest.mark.both_protocols
@pytest.mark.row(4, 10)
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


@pytest.mark.both_protocols
@pytest.mark.row(4, 18)
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


@pytest.mark.both_protocols
@pytest.mark.row(4, 5)
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


@pytest.mark.both_protocols
@pytest.mark.row(4)
@pytest.mark.parametrize("wait", ["abort_on_reset", "wait_reset", "spawn_and_abort_on_reset"])
async def test_reset_in_the_same_read_as_a_request_whose_handler_delegates(wait: str) -> None:
    """The task that the abort goes to instead may not have had its first step either."""
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
        await raw.send(*(request(id, "delegate") + reset(id) for id in range(1, MANY + 1)))
        await raw.synchronize()
        await until(lambda: here.server.statistics().calls_running == 0)
        await raw.send(request(MANY + 1, "echo", b"x"))
        assert await raw.answer() == (MANY + 1, b"x")
        statistics = here.server.statistics()
        assert (statistics.calls_reset, statistics.calls_failed) == (MANY, 0)
    # Where the read took so long that others had their turn in the middle of it, one has begun.
    assert len(work.calls) == len(work.cancels) == work.ended < MANY


@pytest.mark.both_protocols
@pytest.mark.row(1)
async def test_reset_in_the_same_read_comes_too_late_for_work_that_never_waits() -> None:
    """Answered means queued for output; what is parsed after that has no effect."""
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


@pytest.mark.row(3, 4)
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
