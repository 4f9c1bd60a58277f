"""Cancellation as the caller sees it: one reset, at once, and only of what was asked."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading

import pytest

import sockrpc
from tests.kit.inside import is_writable
from tests.kit.raw_server import Peer, connected, response
from tests.kit.support import PATIENCE, serving, started, until
from tests.kit.work import Work

LARGE = bytes(16 * 1024 * 1024)


@pytest.mark.row(17)
async def test_a_timeout_is_a_timeout_error_and_one_reset() -> None:
    """The caller's own timeout."""
    async with connected() as (client, peer):
        with pytest.raises(TimeoutError):
            await client.call("slow", b"x", timeout=0.05)
        assert await peer.message() == ("request", 1, b"\x04slowx")
        assert await peer.reset() == 1
        await peer.synchronize()
        assert client.status().pending == []
        # A timeout that is not over does nothing.
        waiting = await started(client.call("fast", timeout=PATIENCE))
        assert await peer.request() == 2
        await peer.answer(2)
        assert await waiting == b"answer"
        await peer.synchronize()


@pytest.mark.row(17)
async def test_a_timeout_of_zero() -> None:
    """What was sent is reset, all the same."""
    async with connected() as (client, peer):
        with pytest.raises(TimeoutError):
            await client.call("slow", timeout=0)
        assert (await peer.request(), await peer.reset()) == (1, 1)
        await peer.synchronize()


@pytest.mark.row(6, 13)
async def test_a_waiter_that_is_cancelled_is_one_reset_at_once() -> None:
    """Nothing else has to be written for the reset to leave; row 6: and there is one."""
    async with connected() as (client, peer):
        waiting = [await started(client.call("slow")) for _ in range(3)]
        assert [await peer.request() for _ in range(3)] == [1, 2, 3]
        waiting[1].cancel()
        waiting[1].cancel()
        assert await peer.reset() == 2
        with pytest.raises(asyncio.CancelledError):
            await waiting[1]
        await peer.synchronize()
        assert client.status().pending == [1, 3]
        for id in (3, 1):
            await peer.answer(id, b"%d" % id)
        assert [await waiting[0], await waiting[2]] == [b"1", b"3"]
        await peer.synchronize()


@pytest.mark.row(13)
async def test_the_reset_is_written_in_the_iteration_in_which_the_call_is_cancelled() -> None:
    """It is on the line although the loop does nothing more."""
    async with connected() as (client, peer):
        waiting = await started(client.call("slow"))
        assert await peer.request() == 1
        peer.writer.transport.pause_reading()
        with peer.writer.get_extra_info("socket").dup() as line:
            line.settimeout(PATIENCE)
            waiting.cancel()
            # One turn delivers the cancel, one lets the loop do the writes that it has gathered.
            for _ in range(2):
                await asyncio.sleep(0)
            # This blocks the loop: nothing else can write it now.
            assert len(line.recv(100, socket.MSG_PEEK)) == 2 + 4 + 5
        peer.writer.transport.resume_reading()
        assert await peer.reset() == 1
        await asyncio.wait([waiting])


@pytest.mark.row(17)
@pytest.mark.parametrize("call_timeout", [None, PATIENCE])
async def test_a_timeout_around_the_call(call_timeout: float | None) -> None:
    """Asyncio.timeout is a cancellation like any other, and stays the one who says so."""
    async with connected() as (client, peer):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05) as around:
                await client.call("slow", timeout=call_timeout)
        assert around.expired()
        assert (await peer.request(), await peer.reset()) == (1, 1)
        await peer.synchronize()
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0


@pytest.mark.row(17)
async def test_a_task_group_that_fails_resets_the_calls_of_its_other_tasks() -> None:
    """The group's exception comes out, and each call was reset once."""
    async with connected() as (client, peer):

        async def fail() -> None:
            for id in (1, 2):
                assert await peer.request() == id
            raise KeyError("mine")

        async def call_twice() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(client.call("slow"))
                group.create_task(client.call("slow", timeout=PATIENCE))
                group.create_task(fail())

        with pytest.raises(ExceptionGroup) as failed:
            await call_twice()
        assert [type(error) for error in failed.value.exceptions] == [KeyError]
        assert {await peer.reset(), await peer.reset()} == {1, 2}
        await peer.synchronize()


@pytest.mark.row(17)
async def test_cancelled_error_is_not_replaced_by_the_timeout_that_comes_with_it() -> None:
    """Whoever cancels the task gets a cancelled task."""
    async with connected() as (client, peer):
        loop = asyncio.get_running_loop()
        waiting = await started(client.call("slow", timeout=0.05))
        assert await peer.request() == 1
        # Both in one iteration, the cancel first.
        loop.call_later(0.04, waiting.cancel)
        blocked = threading.Event()
        loop.call_later(0.03, blocked.wait, 0.1)
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        assert await peer.reset() == 1
        await peer.synchronize()


@pytest.mark.row(2)
async def test_a_cancel_that_lands_between_the_answer_and_the_waiter() -> None:
    """The waiter is cancelled, as it was told; but a call that was answered is not reset."""
    async with connected() as (client, peer):
        waiting = await started(client.call("race"))
        assert await peer.request() == 1
        pending = client.status().pending
        peer.writer.write(response(1, b"answer"))
        # The answer is in, and the waiter's next step is scheduled but has not run.
        await until(lambda: client.status().pending != pending)
        assert not waiting.done()
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        await peer.synchronize()


@pytest.mark.row(1)
async def test_an_answer_that_crosses_the_reset_is_dropped() -> None:
    """It is no error, and no later call gets it."""
    async with connected() as (client, peer):
        waiting = await started(client.call("slow"))
        assert await peer.request() == 1
        waiting.cancel()
        assert await peer.reset() == 1
        second = await started(client.call("second"))
        assert await peer.request() == 2
        await peer.send(response(1, b"late"), response(1, b"later"), response(2, b"second"))
        assert await second == b"second"
        assert waiting.cancelled()


@pytest.mark.row(1)
async def test_an_answer_to_what_was_never_asked_is_dropped() -> None:
    """The same."""
    async with connected() as (client, peer):
        waiting = await started(client.call("slow"))
        assert await peer.request() == 1
        await peer.send(response(0, b""), response(2, b"2"), response(2**32 - 1, b"x"))
        await peer.synchronize()
        assert not waiting.done()
        # Not even when that id comes into use.
        second = await started(client.call("second"))
        assert await peer.request() == 2
        await peer.send(response(1, b"1"), response(1, b"again"))
        assert await waiting == b"1"
        assert not second.done()
        second.cancel()
        assert await peer.reset() == 2


async def test_a_call_that_is_cancelled_before_its_task_begins_sends_nothing() -> None:
    async with connected() as (client, peer):
        waiting = asyncio.ensure_future(client.call("never"))
        waiting.cancel()
        await asyncio.wait([waiting])
        await peer.synchronize()
        assert client.status().pending == []


async def test_a_call_that_is_cancelled_in_the_iteration_in_which_it_was_made_sends_nothing() -> None:
    """Its request waits for the end of the iteration, to be written with others."""
    async with connected() as (client, peer):
        first = await started(client.call("first"))
        assert await peer.request() == 1
        never = await started(client.call("never"))
        assert client.status().pending == [1, 2]
        never.cancel()
        third = await started(client.call("third"))
        assert await peer.request() == 3
        await peer.synchronize()
        assert never.cancelled()
        await peer.send(response(1, b"1"), response(2, b"2"), response(3, b"3"))
        assert [await first, await third] == [b"1", b"3"]


async def block_output(client: sockrpc.Client, peer: Peer) -> asyncio.Task[bytes]:
    """Make a call of a size that the line does not take while the peer does not read."""
    waiting = await started(client.call("large", LARGE))
    await until(lambda: not is_writable(client))
    return waiting


@pytest.mark.row(13)
async def test_a_call_that_is_cancelled_while_output_is_blocked_sends_nothing() -> None:
    """While the reset of one that was sent waits for nothing, not even for other requests."""
    async with connected(output_high_bytes=65536, output_low_bytes=0) as (client, peer):
        first = await started(client.call("first"))
        large = await block_output(client, peer)
        never = [await started(client.call("never")) for _ in range(3)]
        last = await started(client.call("last"))
        assert client.status().pending == [1, 2, 3, 4, 5, 6]
        for task in (never[1], first, never[0], never[2]):
            task.cancel()
        # No reset waits, so neither does who sends it.
        await asyncio.wait([first, *never])
        assert all(task.cancelled() for task in (first, *never))
        assert client.status().pending == [2, 6]
        assert await peer.request() == 1
        kind, id, rest = await peer.message()
        assert (kind, id, len(rest)) == ("request", 2, 1 + len("large") + len(LARGE))
        assert await peer.reset() == 1
        assert await peer.request() == 6
        await peer.synchronize()
        await peer.send(response(2, b"2"), response(6, b"6"))
        assert [await large, await last] == [b"2", b"6"]


@pytest.mark.row(13)
async def test_a_timeout_is_not_held_up_by_blocked_output() -> None:
    """Neither of a call whose request is on its way, nor of one whose request waits."""
    async with connected(output_high_bytes=65536, output_low_bytes=0) as (client, peer):
        large = await block_output(client, peer)
        with pytest.raises(TimeoutError):
            await client.call("never", timeout=0.05)
        large.cancel()
        await asyncio.wait([large])
        assert client.status().pending == []
        assert (await peer.message())[:2] == ("request", 1)
        assert await peer.reset() == 1
        await peer.synchronize()


@pytest.mark.both_protocols
@pytest.mark.row(3, 6)
async def test_both_ends_agree_that_a_cancelled_call_is_over() -> None:
    """Row 3, row 6: a flood of calls that give up, against a server of ours."""
    work = Work()
    async with serving(work.app()) as here, here.connect() as client:
        for begun in range(20, 101, 20):
            waiting = [await started(client.call("work")) for _ in range(20)]
            await until(lambda begun=begun: len(work.calls) == begun)
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
            assert await client.call("echo", b"x") == b"x"
            assert here.server.statistics().calls_in_flight == 0
        await until(lambda: here.server.statistics().calls_running == 0)
        assert here.server.statistics().calls_reset == 100
    assert work.cancels == [1] * 100


@pytest.mark.row(22)
async def test_a_waiter_that_nobody_refers_to_has_its_answer() -> None:
    """The connection refers to its calls, and so to the tasks that wait for them."""
    answers: list[bytes] = []

    async def call(client: sockrpc.Client) -> None:
        answers.append(await client.call("slow"))

    async with connected() as (client, peer):
        # The task is not kept.
        await started(call(client))
        assert await peer.request() == 1
        gc.collect()
        assert client.status().pending == [1]
        await peer.answer(1, b"late")
        await until(lambda: answers == [b"late"])
        assert client.status().pending == []
