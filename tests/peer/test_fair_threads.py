"""Who gets a thread next: connections take turns, and each has its own calls in order of arrival."""

from __future__ import annotations

import time

import pytest

from sockrpc.peer.handler_threads import Job, PendingJobs
from tests.kit.support import request, reset, serving, until
from tests.peer.test_cancellation_threads import ThreadWork


async def test_one_connection_with_many_calls_does_not_make_others_wait_for_all_of_them() -> None:
    work = ThreadWork()
    async with serving(work.app(), max_threads=1) as here, await here.raw() as hog, await here.raw() as other:
        await hog.send(*(request(id, "work", b"hog %d" % id) for id in range(100)))
        await hog.synchronize()
        await until(lambda: len(work.calls) == 1)
        await other.send(request(1, "work", b"other"))
        await other.synchronize()
        # The hog has the thread, which nobody can take from it, and the turn before the newcomer's.
        work.end(b"hog 0")
        work.end(b"hog 1")
        work.end(b"other")
        assert await other.answer() == (1, b"answer of other")
        await until(lambda: len(work.calls) == 4)
        assert [each.payload for each in work.calls] == [b"hog 0", b"hog 1", b"other", b"hog 2"]
        for id in range(2, 100):
            work.end(b"hog %d" % id)
        await until(lambda: here.server.statistics().calls_running == 0)


async def test_connections_take_turns_and_calls_of_one_stay_in_order() -> None:
    work = ThreadWork()
    async with serving(work.app(), max_threads=1) as here:
        clients = [await here.raw() for _ in range(3)]
        payloads = [[b"%d.%d" % (client, call) for call in range(3)] for client in range(3)]
        for client, sent in zip(clients, payloads, strict=True):
            await client.send(*(request(id, "work", payload) for id, payload in enumerate(sent)))
            await client.synchronize()
        for each in (payload for sent in payloads for payload in sent):
            work.end(each)
        await until(lambda: here.server.statistics().calls_answered == 9)
        # The first has begun before the others came.
        began = [call.payload.decode() for call in work.calls]
        assert began == ["0.0", "0.1", "1.0", "2.0", "0.2", "1.1", "2.1", "1.2", "2.2"]
        for client in clients:
            await client.close()


async def test_one_that_is_withdrawn_leaves_the_turns_as_they_were() -> None:
    work = ThreadWork()
    async with serving(work.app(), max_threads=1) as here, await here.raw() as one, await here.raw() as two:
        await one.send(*(request(id, "work", b"one %d" % id) for id in range(3)))
        await one.synchronize()
        await until(lambda: work.calls)
        await two.send(request(1, "work", b"two"))
        await two.synchronize()
        # All that waits of the first: the second is alone.
        await one.send(reset(1), reset(2))
        await one.synchronize()
        for each in (b"one 0", b"two"):
            work.end(each)
        assert await two.answer() == (1, b"answer of two")
        assert [each.payload for each in work.calls] == [b"one 0", b"two"]


def job(key: object) -> Job:
    return Job(abs, 0, lambda: None, lambda *_: None, None, key)


def test_a_key_that_comes_again_has_the_last_turn() -> None:
    pending = PendingJobs()
    jobs = [job(key) for key in "aab"]
    for each in jobs:
        pending.add(each)
    assert pending.take() is jobs[0]
    jobs.append(job("c"))
    pending.add(jobs[3])
    assert [pending.take() for _ in range(3)] == [jobs[2], jobs[1], jobs[3]]
    assert not pending
    assert not pending.remove(jobs[0])


@pytest.mark.parametrize("alike", [True, False], ids=["one connection", "a connection each"])
def test_giving_a_thread_and_taking_back_a_job_take_the_same_time_however_many_wait(alike: bool) -> None:
    def seconds(count: int) -> float:
        pending = PendingJobs()
        jobs = [job(0 if alike else number) for number in range(count)]
        for each in jobs:
            pending.add(each)
        began = time.process_time()
        assert all(pending.remove(each) for each in reversed(jobs[::2]))
        taken = [pending.take() for _ in range(len(jobs[1::2]))]
        ended = time.process_time()
        assert taken == jobs[1::2]
        assert not pending
        return ended - began

    few, many = (min(seconds(count) for _ in range(3)) for count in (1_000, 16_000))
    # 16 times as many.
    assert many < 64 * few
