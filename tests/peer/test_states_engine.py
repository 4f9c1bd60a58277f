"""Each row of the tables of a call's life is taken by the engine, and what it does is seen from outside.

Everything is in memory, and time stands still but where a route moves it. Debug builds count the rows that
are taken; there a route has to take its own.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import sockrpc
from sockrpc._debug import is_debug
from sockrpc.peer.states import CALLEE, CALLER, rows_taken
from tests.kit.clock import new_still_loop
from tests.kit.engine_program import play_program
from tests.kit.inside import is_writable
from tests.kit.loops import LOOPS
from tests.kit.stage import Stage, response
from tests.kit.streams import Program
from tests.kit.support import request, reset, started

Place = tuple[str, str, str]

SCRIPTS = 300
# Scripts have no threads, and no server that answers what was not asked.
OUT_OF_REACH = {("callee", "idle", "fail"), ("caller", "unsent", "response")}


# The side that serves


async def a_call_that_waited_starts() -> None:
    async with Stage(max_in_flight=1) as here:
        await here.one_runs_and_one_waits()
        await here.let_go()
        assert [call.id for call in here.calls] == [1, 2]
        assert here.raw_end.answers == [(1, b"one"), (2, b"two")]


async def a_call_that_waits_is_reset() -> None:
    async with Stage(max_in_flight=1) as here:
        await here.one_runs_and_one_waits()
        await here.send(reset(2))
        assert here.outcomes() == {"reset": 1}
        assert here.line.server.protocol.load == (1, 0, 0)
        await here.let_go()
        assert (len(here.calls), here.raw_end.answers) == (1, [(1, b"one")])


async def a_call_that_waits_is_lost() -> None:
    async with Stage(max_in_flight=1) as here:
        await here.one_runs_and_one_waits()
        await here.lose()
        assert here.outcomes() == {"lost": 2}
        assert (len(here.calls), here.told) == (1, ["1 cancelled, lost"])


async def a_call_that_waits_is_stopped() -> None:
    async with Stage(max_in_flight=1) as here:
        await here.one_runs_and_one_waits()
        here.server.close()
        await here.settle()
        assert here.outcomes() == {"stopped": 1}
        await here.let_go()
        assert (len(here.calls), here.raw_end.answers) == (1, [(1, b"one")])
        assert here.outcomes() == {"stopped": 1, "answered": 1}


async def a_call_is_answered() -> None:
    async with Stage() as here:
        await here.send(request(1, "echo", b"one"))
        assert (here.raw_end.answers, here.outcomes()) == ([(1, b"one")], {"answered": 1})


async def a_call_fails() -> None:
    async with Stage() as here:
        await here.send(request(1, "fail"))
        assert (here.raw_end.answers, here.outcomes()) == ([], {"failed": 1})
        # It is out of the table: its id is free.
        await here.send(request(1, "echo", b"two"))
        assert here.raw_end.answers == [(1, b"two")]


async def a_call_that_runs_is_reset() -> None:
    async with Stage() as here:
        await here.send(request(1, "wait"))
        await here.send(reset(1))
        assert (here.told, here.outcomes()) == (["1 cancelled, reset"], {"reset": 1})
        assert here.raw_end.answers == []


async def a_call_that_runs_is_lost() -> None:
    async with Stage() as here:
        await here.send(request(1, "wait"))
        await here.lose()
        assert (here.told, here.outcomes()) == (["1 cancelled, lost"], {"lost": 1})


async def a_call_that_runs_is_timed_out() -> None:
    async with Stage() as here:
        await here.send(request(1, "timed"))
        await here.pass_time(2.5)
        assert (here.told, here.outcomes()) == (["1 cancelled, timeout"], {"timed_out": 1})


async def a_call_that_runs_is_stopped() -> None:
    async with Stage() as here:
        await here.send(request(1, "wait"))
        here.server.close()
        await here.settle()
        assert here.outcomes() == {}
        await here.pass_time(3.5)
        assert (here.told, here.outcomes()) == (["1 cancelled, stop"], {"stopped": 1})


async def an_answer_after_the_reset_is_not_sent() -> None:
    async with Stage() as here:
        await here.send(request(1, "late"))
        await here.send(reset(1))
        assert (here.told, here.outcomes()) == (["respond: False"], {"reset": 1})
        assert here.raw_end.answers == []


async def a_call_that_a_thread_drops_is_reset_first() -> None:
    async with Stage("socket") as here:
        await here.send(request(1, "drop"))
        assert len(here.calls) == 1
        thread = threading.Thread(target=here.calls.clear)
        thread.start()
        thread.join()
        # The drop is on its way to this loop, and the reset is here.
        here.raw_end.send(reset(1))
        here.line.server.receive(1000)
        assert here.outcomes() == {"reset": 1}
        await here.settle()
        assert here.outcomes() == {"reset": 1}


async def a_reset_after_the_answer() -> None:
    async with Stage() as here:
        await here.send(request(1, "echo", b"one"), reset(1), reset(7), request(1, "echo", b"two"))
        assert (here.raw_end.answers, here.outcomes()) == ([(1, b"one"), (1, b"two")], {"answered": 2})


async def the_timer_of_work_that_goes_on_after_its_reset() -> None:
    async with Stage() as here:
        await here.send(request(1, "completing"))
        await here.send(reset(1))
        assert here.told == []
        await here.pass_time(2.5)
        assert (here.told, here.outcomes()) == (["1 cancelled, timeout"], {"reset": 1})


async def the_stop_of_work_that_goes_on_after_its_reset() -> None:
    async with Stage() as here:
        await here.send(request(1, "finishing"))
        await here.send(reset(1))
        here.server.close()
        await here.settle()
        assert here.told == []
        await here.pass_time(3.5)
        assert (here.told, here.outcomes()) == (["1 cancelled, stop"], {"reset": 1})


# The side that calls


async def a_call_is_made() -> None:
    async with Stage() as here:
        client, _ = here.connect()
        waiting = await started(client.call("echo", b"one"))
        assert client.status().pending == [1]
        await here.settle()
        assert (waiting.result(), client.status().pending) == (b"one", [])


async def an_unsent_request_is_written() -> None:
    async with Stage() as here:
        client, _, waiters = await here.blocked(3)
        assert not is_writable(client)
        await here.settle()
        assert [each.result() for each in waiters] == [bytes(20)] * 3


async def an_unsent_call_is_cancelled() -> None:
    async with Stage() as here:
        client, _, waiters = await here.blocked(3)
        waiters[2].cancel()
        await asyncio.wait([waiters[2]])
        assert client.status().pending == [1, 2]
        await here.settle()
        assert (here.server.statistics().calls_started, here.outcomes()) == (2, {"answered": 2})


async def an_unsent_call_is_lost() -> None:
    async with Stage() as here:
        client, pair, waiters = await here.blocked(3)
        pair.cut()
        await here.settle()
        errors = await asyncio.gather(*waiters, return_exceptions=True)
        assert [type(error) for error in errors] == [sockrpc.ConnectionLost] * 3
        assert client.status().pending == []


async def a_response_comes_before_its_request_is_written() -> None:
    async with Stage() as here:
        client, pair, waiters = await here.blocked(3)
        pair.server.write(response(3, b"of an older call"))
        pair.client.receive(1000)
        assert client.status().pending == [1, 2, 3]
        await here.settle()
        assert [each.result() for each in waiters] == [bytes(20)] * 3


async def a_response_settles_the_call() -> None:
    async with Stage() as here:
        client, pair = here.connect()
        waiters = [await started(client.call("wait")) for _ in range(2)]
        await here.settle()
        for id, left in ((2, [1]), (1, [])):
            pair.server.write(response(id, b"%d" % id))
            pair.client.receive(1000)
            assert client.status().pending == left
        await here.settle()
        assert [each.result() for each in waiters] == [b"1", b"2"]


async def a_call_is_cancelled() -> None:
    async with Stage() as here:
        client, _ = here.connect()
        waiting = await started(client.call("wait"))
        await here.settle()
        waiting.cancel()
        await here.settle()
        assert (waiting.cancelled(), client.status().pending) == (True, [])
        assert (here.told, here.outcomes()) == (["1 cancelled, reset"], {"reset": 1})


async def a_call_is_lost() -> None:
    async with Stage() as here:
        client, pair = here.connect()
        waiting = await started(client.call("wait"))
        await here.settle()
        pair.cut()
        await here.settle()
        assert isinstance(waiting.exception(), sockrpc.ConnectionLost)
        assert client.status().pending == []


async def a_call_is_cancelled_after_its_answer() -> None:
    async with Stage() as here:
        client, pair = here.connect()
        waiting = await started(client.call("echo", b"one"))
        pair.server.receive(1000)
        pair.client.receive(1000)
        # The answer is in, and its waiter has not run.
        assert (client.status().pending, waiting.done()) == ([], False)
        resets = []
        pair.client.tap = resets.append
        waiting.cancel()
        await here.settle()
        assert (waiting.cancelled(), resets) == (True, [])


async def a_response_that_crosses_the_reset() -> None:
    async with Stage() as here:
        client, pair = here.connect()
        pair.server.write(response(9, b"to what was never asked"))
        pair.client.receive(1000)
        waiting = await started(client.call("echo", b"one"))
        await here.settle()
        assert (waiting.result(), client.status().pending) == (b"one", [])


ROUTES: dict[Place, Callable[[], Awaitable[None]]] = {
    ("callee", "waiting", "gate opens"): a_call_that_waited_starts,
    ("callee", "waiting", "reset"): a_call_that_waits_is_reset,
    ("callee", "waiting", "lost"): a_call_that_waits_is_lost,
    ("callee", "waiting", "stop"): a_call_that_waits_is_stopped,
    ("callee", "running", "answer"): a_call_is_answered,
    ("callee", "running", "fail"): a_call_fails,
    ("callee", "running", "reset"): a_call_that_runs_is_reset,
    ("callee", "running", "lost"): a_call_that_runs_is_lost,
    ("callee", "running", "timer"): a_call_that_runs_is_timed_out,
    ("callee", "running", "stop"): a_call_that_runs_is_stopped,
    ("callee", "idle", "answer"): an_answer_after_the_reset_is_not_sent,
    ("callee", "idle", "fail"): a_call_that_a_thread_drops_is_reset_first,
    ("callee", "idle", "reset"): a_reset_after_the_answer,
    ("callee", "idle", "timer"): the_timer_of_work_that_goes_on_after_its_reset,
    ("callee", "idle", "stop"): the_stop_of_work_that_goes_on_after_its_reset,
    ("caller", "idle", "call"): a_call_is_made,
    ("caller", "unsent", "write"): an_unsent_request_is_written,
    ("caller", "unsent", "cancel"): an_unsent_call_is_cancelled,
    ("caller", "unsent", "lost"): an_unsent_call_is_lost,
    ("caller", "unsent", "response"): a_response_comes_before_its_request_is_written,
    ("caller", "open", "response"): a_response_settles_the_call,
    ("caller", "open", "cancel"): a_call_is_cancelled,
    ("caller", "open", "lost"): a_call_is_lost,
    ("caller", "idle", "cancel"): a_call_is_cancelled_after_its_answer,
    ("caller", "idle", "response"): a_response_that_crosses_the_reset,
}


def run(kind: str, route: Callable[[], Awaitable[None]]) -> None:
    loop = new_still_loop(kind)
    unexpected: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: unexpected.append(context))

    async def play() -> None:
        await route()

    try:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(play())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    assert not unexpected


@pytest.mark.usefixtures("caplog")
@pytest.mark.parametrize("kind", LOOPS)
@pytest.mark.parametrize("place", ROUTES, ids=", ".join)
def test_the_engine_takes_the_row(place: Place, kind: str) -> None:
    before = rows_taken()
    run(kind, ROUTES[place])
    assert not is_debug() or rows_taken()[place] > before[place]


def test_each_row_has_a_route() -> None:
    rows = [("callee", row.state, row.input) for row in CALLEE if row.cell(0) is not None]
    rows += [("caller", row.state, row.input) for row in CALLER if row.cell(0) is not None]
    assert set(ROUTES) == set(rows)


@pytest.mark.skipif(not is_debug(), reason="only debug builds count: SOCKRPC_DEBUG=1, make asan")
@pytest.mark.usefixtures("caplog")
def test_random_scripts_take_every_row() -> None:
    before = rows_taken()
    chance = random.Random(12)
    for _ in range(SCRIPTS):
        play_program(Program(chance.randbytes(200)))
    after = rows_taken()
    assert {place for place in after if after[place] == before[place]} <= OUT_OF_REACH
