"""Rows of the table of cancellation that `sockrpc.v1` answers otherwise than v0.1: each reset has its end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import sockrpc
from sockrpc import Code, Outcome, RPCError
from tests.kit.pair import MemoryServer, take_frames
from tests.kit.support import V1, serving, started, until
from tests.kit.v1_peer import V1Peer, request, reset
from tests.kit.work import Stubborn, Work

RESET = 3
CANCELLED = Code.CANCELLED.value
PARTIAL, NOT_STARTED, COMPLETED = (each.value for each in list(Outcome)[:3])


def opcodes(written: bytearray) -> list[int]:
    """Those of the frames that were written, which this takes out."""
    return [data[0] for _, data in take_frames(written)]


@pytest.mark.row(1)
async def test_an_answer_that_crosses_the_reset_is_the_end() -> None:
    """Nothing is sent for the reset, and the caller hears that the work was completed."""
    async with MemoryServer(Work().app()) as here:
        client, pair = here.connect(protocol=V1[0])
        await here.settle()
        handle = client.start("echo", "x")
        pair.server.receive(1_000)
        down = bytearray(pair.server.on_its_way)
        assert opcodes(down) == [4]
        outcome = handle.cancel()
        with pytest.raises(RPCError) as raised:
            await handle
        assert raised.value.code is Code.CANCELLED
        await here.settle()
        assert outcome.result() is Outcome.COMPLETED
        assert here.server.statistics().calls_reset == 0
        assert client.status().pending == []


@pytest.mark.row(2)
async def test_a_reset_that_lands_between_the_return_and_the_end() -> None:
    """One change of state decides; no CancelledError reaches the work, so its effect has taken place."""
    work = Work()
    loop = asyncio.get_running_loop()
    async with MemoryServer(work.app()) as here:
        client, pair = here.connect(protocol=V1[0])
        handle = client.start("work")
        await here.settle()
        outcome = handle.cancel()
        work.may_answer.set()
        # The handler takes its last step, then this, then its task is seen to have ended.
        loop.call_soon(pair.server.receive, 1_000)
        await asyncio.sleep(0)
        assert work.ended == 1
        await here.settle()
        assert outcome.result() is Outcome.COMPLETED
        assert work.cancels == []
        statistics = here.server.statistics()
        assert (statistics.calls_reset, statistics.calls_answered) == (1, 0)


@pytest.mark.row(2)
async def test_a_cancel_that_lands_between_the_end_and_the_waiter() -> None:
    async with MemoryServer(Work().app()) as here:
        client, pair = here.connect(protocol=V1[0])
        await here.settle()
        waiting = await started(client.call("echo", "x"))
        written = bytearray()
        pair.client.tap = written.extend
        pair.server.receive(1_000)
        pair.client.receive(1_000)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert opcodes(written) == []
        assert client.status().pending == []


@pytest.mark.row(3)
async def test_an_id_is_taken_until_its_end_was_sent() -> None:
    work = Work()
    work.may_unwind.clear()
    async with serving(work.app()) as here, await V1Peer.meet(here.port) as raw:
        await raw.say(request(1, "work"), reset(1), request(1, "echo"))
        assert await raw.closing() == (1002, "id in use")
        work.may_unwind.set()


@pytest.mark.row(3)
async def test_a_client_uses_an_id_again_only_behind_its_end() -> None:
    work = Work()
    work.may_unwind.clear()
    async with MemoryServer(work.app()) as here:
        client, _ = here.connect(protocol=V1[0])
        handle = client.start("work")
        await here.settle()
        outcome = handle.cancel()
        await here.settle()
        # Nobody waits for its answer, but its id is taken until its end has come.
        assert client.status().pending == []
        assert not outcome.done()
        calling = await started(client.call("echo", "x"))
        assert client.status().pending == [2]
        await here.settle()
        assert calling.result() == b"x"
        work.may_unwind.set()
        await here.settle()
        assert outcome.result() is Outcome.PARTIAL
        assert client.status().pending == []


@pytest.mark.row(4, 5)
async def test_resets_in_the_same_read_as_their_requests_have_ends() -> None:
    work = Work()
    async with serving(work.app(), max_in_flight=1) as here, await V1Peer.meet(here.port) as raw:
        await raw.say(request(1, "work"), request(2, "work"), reset(2), reset(1), request(3, "echo", b"x"))
        assert await raw.error() == (2, CANCELLED, NOT_STARTED)
        id, code, outcome = await raw.error()
        # Before Python 3.12 its task has not had its first step.
        assert (id, code, outcome == PARTIAL) == (1, CANCELLED, bool(work.calls))
        assert await raw.answer() == (3, b"x")


@pytest.mark.row(8)
async def test_work_that_swallows_its_cancel_is_partial() -> None:
    work = Stubborn()
    async with serving(work.app()) as here, here.connect(protocols=V1) as client:
        handle = client.start("work")
        await until(lambda: work.calls)
        outcome = handle.cancel()
        await until(lambda: work.cancels)
        assert await client.call("echo", "x") == b"x"
        assert not outcome.done()
        work.may_unwind.set()
        assert await outcome is Outcome.PARTIAL
    assert work.cancels == [1]


@pytest.mark.row(11)
async def test_a_flood_of_requests_and_resets_has_its_ends_when_the_work_has_ended() -> None:
    work = Work()
    work.may_unwind.clear()
    async with serving(work.app(), max_in_flight=4) as here, await V1Peer.meet(here.port) as raw:
        await raw.say(*(request(id, "work") for id in range(1, 101)))
        await until(lambda: len(work.calls) == 4)
        await raw.say(*(reset(id) for id in range(1, 101)))
        ends = [await raw.error() for _ in range(96)]
        assert ends == [(id, CANCELLED, NOT_STARTED) for id in range(5, 101)]
        # Their slots are taken until they have unwound.
        await raw.say(*(request(id, "echo") for id in range(5, 9)))
        await raw.synchronize()
        statistics = here.server.statistics()
        assert (statistics.calls_running, statistics.procedures_waiting) == (4, 4)
        work.may_unwind.set()
        ended = sorted([await raw.message() for _ in range(8)], key=lambda message: message[4])
        assert [message[0] for message in ended] == [9] * 4 + [4] * 4
        assert {message[5:7] for message in ended[:4]} == {bytes([CANCELLED, PARTIAL])}
    assert len(work.calls) == 4


@pytest.mark.row(12)
async def test_reading_goes_on_whatever_waits() -> None:
    """Calls wait, one more than there may be is refused, and a reset is acted on behind them."""
    work = Work()
    limits = {"max_in_flight": 1, "max_calls": 50}
    async with serving(work.app(), **limits) as here, await V1Peer.meet(here.port) as raw:
        await raw.say(*(request(id, "work", bytes(1_000)) for id in range(1, 52)), reset(1))
        assert await raw.error() == (51, Code.RESOURCE_EXHAUSTED, NOT_STARTED)
        end = await raw.error()
        # Before Python 3.12 its task has not had its first step.
        assert end == (1, CANCELLED, PARTIAL if 1 in [call.id for call in work.calls] else NOT_STARTED)
        work.may_answer.set()
        assert [(await raw.answer())[0] for _ in range(49)] == list(range(2, 51))


@pytest.mark.row(6, 13)
@pytest.mark.parametrize("how", ["call", "handle", "time-out"])
async def test_one_reset_is_written_in_the_iteration_of_the_cancel(how: str) -> None:
    work = Work()
    async with MemoryServer(work.app()) as here:
        client, pair = here.connect(protocol=V1[0])
        timeout = 0.01 if how == "time-out" else None
        handle: Any = client.start("work", timeout=timeout)
        waiting = await started(client.call("work", timeout=timeout)) if how != "handle" else handle
        await here.settle()
        written = bytearray()
        pair.client.tap = written.extend
        if how == "handle":
            handle.cancel()
            handle.cancel()
            assert opcodes(written) == [RESET]
        elif how == "call":
            waiting.cancel()
            await asyncio.sleep(0)
            assert opcodes(written) == [RESET]
        else:
            with pytest.raises(sockrpc.DeadlineExceeded):
                await waiting
            await until(handle.done)
            assert opcodes(written) == [RESET, RESET]
        handle.cancel()
        await here.settle()
        assert work.ended == len(work.calls)


@pytest.mark.row(20)
async def test_a_call_is_one_plain_task_and_a_connection_none() -> None:
    work = Work()
    async with serving(work.app()) as here, await V1Peer.meet(here.port) as raw:
        before = asyncio.all_tasks()
        await raw.say(*(request(id, "work") for id in range(1, 6)))
        await until(lambda: len(work.calls) == 5)
        tasks = asyncio.all_tasks() - before
        assert len(tasks) == 5
        assert {type(task) for task in tasks} == {asyncio.Task}
        work.may_answer.set()
        assert sorted([(await raw.answer())[0] for _ in range(5)]) == [1, 2, 3, 4, 5]
