"""Cancellation of work in threads: a flag to poll, and a slot that stays taken until the thread ends."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import sockrpc
from sockrpc.peer.handler_threads import HandlerThreads
from tests.kit.support import PATIENCE, request, reset, serving, until


class ThreadWork:
    """A plain handler that runs in its thread until the test lets it end, whatever happens to its call."""

    def __init__(self) -> None:
        self.calls: list[sockrpc.Call] = []
        self.lock = threading.Lock()
        self.may_end: dict[bytes, threading.Event] = {}
        self.running = 0
        self.most = 0

    def __call__(self, call: sockrpc.Call) -> bytes:
        with self.lock:
            self.calls.append(call)
            self.running += 1
            self.most = max(self.most, self.running)
            may_end = self.may_end.setdefault(call.payload, threading.Event())
        assert may_end.wait(PATIENCE)
        with self.lock:
            self.running -= 1
        return b"answer of " + call.payload

    def end(self, payload: bytes) -> None:
        with self.lock:
            self.may_end.setdefault(payload, threading.Event()).set()

    def app(self, **options: Any) -> sockrpc.App:
        app = sockrpc.App()
        app.method("work", thread=True, **options)(self)
        app.method("echo")(lambda call: call.payload)
        return app


@pytest.mark.row(10)
async def test_the_slot_is_taken_until_the_thread_has_ended() -> None:
    """Cancelling does not stop it, so it goes on to count."""
    work = ThreadWork()
    async with serving(work.app(), max_in_flight=1) as here, await here.raw() as raw:
        await raw.send(request(1, "work", b"a"))
        await until(lambda: work.calls)
        assert not work.calls[0].is_reset
        await raw.send(reset(1), request(1, "echo", b"next"))
        await raw.synchronize()
        assert (work.calls[0].is_reset, work.calls[0].abort_reason) == (True, "reset")
        statistics = here.server.statistics()
        assert (statistics.calls_running, statistics.procedures_waiting) == (1, 1)
        work.end(b"a")
        assert await raw.answer() == (1, b"next")
        await raw.synchronize()


@pytest.mark.both_protocols
@pytest.mark.row(10)
async def test_raise_if_reset_ends_the_thread_silently() -> None:
    """It raises asyncio.CancelledError, and only once the call is aborted."""
    app = sockrpc.App()
    log: list[str] = []
    began = threading.Event()

    @app.method("work", thread=True)
    def work(call: sockrpc.Call) -> None:
        pause = threading.Event()
        call.raise_if_reset()
        began.set()
        try:
            while True:
                call.raise_if_reset()
                pause.wait(0.001)
        except asyncio.CancelledError:
            log.append("cancelled")
            raise

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        await until(began.is_set)
        await raw.send(reset(1))
        await until(lambda: here.server.statistics().calls_running == 0)
        await raw.synchronize()
        assert here.server.statistics().calls_failed == 0
    assert log == ["cancelled"]


@pytest.mark.both_protocols
@pytest.mark.row(7)
async def test_a_thread_that_raises_cancelled_error_by_itself_has_failed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In a thread as on the loop."""
    app = sockrpc.App()

    @app.method("guilty", thread=True)
    def guilty(call: sockrpc.Call) -> None:
        raise asyncio.CancelledError

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "guilty"))
        await until(lambda: here.server.statistics().calls_failed == 1)
        await raw.synchronize()
        assert here.server.statistics().calls_running == 0
    (record,) = caplog.records
    assert "'guilty'" in record.getMessage()


@pytest.mark.row(3, 10)
async def test_an_id_that_is_used_again_while_the_old_thread_runs() -> None:
    """Row 3, row 10: whichever ends first, the second thread answers the second call."""
    work = ThreadWork()
    async with serving(work.app()) as here, await here.raw() as raw:
        for first, second in ((b"a", b"b"), (b"d", b"c")):
            await raw.send(request(1, "work", min(first, second)))
            await until(lambda: work.running == 1)
            await raw.send(reset(1), request(1, "work", max(first, second)))
            await until(lambda: work.running == 2)
            work.end(first)
            await until(lambda: here.server.statistics().calls_running == 1)
            if first > second:
                assert await raw.answer() == (1, b"answer of " + first)
            await raw.synchronize()
            work.end(second)
            if first < second:
                assert await raw.answer() == (1, b"answer of " + second)
            await until(lambda: here.server.statistics().calls_running == 0)
            await raw.synchronize()


@pytest.mark.both_protocols
@pytest.mark.row(5)
async def test_a_reset_withdraws_a_call_that_waits_for_a_thread() -> None:
    """The queue of the threads is one too; and its slot is free at once."""
    work = ThreadWork()
    async with serving(work.app(), max_threads=1, max_in_flight=3) as here, await here.raw() as raw:
        await raw.send(*(request(id, "work", b"%d" % id) for id in range(1, 4)))
        await until(lambda: work.calls)
        await raw.send(request(4, "echo", b"x"), reset(2))
        assert await raw.answer() == (4, b"x")
        assert here.server.statistics().calls_running == 2
        work.end(b"1")
        assert await raw.answer() == (1, b"answer of 1")
        work.end(b"3")
        assert await raw.answer() == (3, b"answer of 3")
        await raw.synchronize()
    assert [call.payload for call in work.calls] == [b"1", b"3"]


@pytest.fixture
def no_more_threads() -> Iterator[None]:
    """From here on the system has no thread for us: none has room for a stack like that."""
    before = threading.stack_size(2**47)
    yield
    threading.stack_size(before)


out_of_threads = pytest.mark.skipif(
    sys.platform == "win32", reason="Windows takes the size of a stack in 32 bits only"
)


@out_of_threads
async def test_without_a_thread_to_be_had_the_call_fails_and_the_connection_lives(
    no_more_threads: None, caplog: pytest.LogCaptureFixture
) -> None:
    work = ThreadWork()
    async with serving(work.app(), max_threads=1) as here, await here.raw() as raw:
        for id in range(3):
            await raw.send(request(id, "work"), request(9, "echo", b"x"))
            assert await raw.answer() == (9, b"x")
            await until(lambda failed=id + 1: here.server.statistics().calls_failed == failed)
        threading.stack_size(0)
        # And there is room for it once there are threads again.
        work.end(b"")
        await raw.send(request(1, "work"))
        assert await raw.answer() == (1, b"answer of ")
    assert "can't start new thread" in caplog.text
    assert "nobody watches" in caplog.text


@out_of_threads
async def test_without_another_thread_to_be_had_a_call_waits_for_those_there_are() -> None:
    work = ThreadWork()
    async with serving(work.app(), max_threads=2) as here, await here.raw() as raw:
        await raw.send(request(1, "work", b"1"))
        await until(lambda: work.calls)
        before = threading.stack_size(2**47)
        try:
            await raw.send(request(2, "work", b"2"), request(9, "echo", b"x"))
            assert await raw.answer() == (9, b"x")
        finally:
            threading.stack_size(before)
        assert len(work.calls) == 1
        work.end(b"2")
        work.end(b"1")
        assert [await raw.answer() for _ in range(2)] == [(1, b"answer of 1"), (2, b"answer of 2")]
    assert work.most == 1


def test_what_waits_for_a_thread_is_withdrawn_in_the_same_time_however_much_waits() -> None:
    """Each reset of such a call withdraws one; a peer may reset the last first."""

    def seconds(count: int) -> float:
        loop, over = asyncio.new_event_loop(), threading.Event()
        threads = HandlerThreads(loop, 1)
        # The only thread is busy for as long as this takes.
        threads.submit(lambda _: over.wait(), None, lambda: None, lambda *_: None)
        jobs = [threads.submit(abs, 0, lambda: None, lambda *_: None) for _ in range(count)]
        began = time.process_time()
        assert all(threads.withdraw(job) for job in reversed(jobs))
        ended = time.process_time()
        assert not threads.withdraw(jobs[0])
        # In this order: the thread ends where no loop waits for it.
        loop.close()
        over.set()
        return ended - began

    few, many = (min(seconds(count) for _ in range(3)) for count in (1_000, 16_000))
    # 16 times as many; it was 256 times as long.
    assert many < 64 * few


@pytest.mark.both_protocols
@pytest.mark.row(14)
async def test_the_loss_withdraws_calls_that_wait_for_a_thread() -> None:
    """And the thread that runs sees it."""
    work = ThreadWork()
    async with serving(work.app(), max_threads=1) as here:
        async with await here.raw() as raw:
            await raw.send(request(1, "work", b"1"), request(2, "work", b"2"))
            await raw.synchronize()
            await until(lambda: work.calls)
        await until(lambda: work.calls[0].is_reset)
        assert work.calls[0].abort_reason == "lost"
        await until(lambda: here.server.statistics().calls_running == 1)
        assert here.server.statistics().calls_lost == 2
        work.end(b"1")
        await until(lambda: here.server.statistics().calls_running == 0)
    assert len(work.calls) == 1


async def test_at_most_max_threads_run_at_once_and_the_rest_in_order() -> None:
    work = ThreadWork()
    async with serving(work.app(), max_threads=2) as here, await here.raw() as raw:
        await raw.send(*(request(id, "work", b"%d" % id) for id in range(5)))
        await raw.synchronize()
        for id, begun in enumerate([2, 3, 4, 5, 5]):
            await until(lambda begun=begun: len(work.calls) == begun)
            await raw.synchronize()
            assert {call.payload for call in work.calls} == {b"%d" % each for each in range(begun)}
            work.end(b"%d" % id)
            assert await raw.answer() == (id, b"answer of %d" % id)
    assert work.most == 2


@pytest.mark.both_protocols
@pytest.mark.row(10)
async def test_the_timeout_of_a_thread_begins_when_a_thread_takes_the_call() -> None:
    """Its time is over, but it ends when the thread does."""
    work = ThreadWork()
    async with serving(work.app(timeout=0.5), max_threads=1) as here, await here.raw() as raw:
        await raw.send(request(1, "work", b"1"), request(2, "work", b"2"))
        await until(lambda: work.calls and work.calls[0].is_reset)
        assert work.calls[0].abort_reason == "timeout"
        statistics = here.server.statistics()
        assert (statistics.calls_timed_out, statistics.calls_in_flight, statistics.calls_running) == (1, 1, 2)
        work.end(b"2")
        work.end(b"1")
        assert await raw.answer() == (2, b"answer of 2")
        await raw.synchronize()
        assert not work.calls[1].is_reset


@pytest.mark.both_protocols
@pytest.mark.row(18)
@pytest.mark.parametrize("ending", ["reset", "lost", "timeout", "stop"])
async def test_a_thread_that_runs_to_completion(ending: str) -> None:
    """A reset and a loss leave it alone, also while it waits for its thread."""
    work = ThreadWork()
    app = work.app(run_to_completion=True, timeout=0.25 if ending == "timeout" else None)
    async with serving(app, max_threads=1, stop_grace=0.1, abort_grace=PATIENCE) as here:
        raw = await here.raw()
        await raw.send(request(1, "work", b"1"), request(2, "work", b"2"))
        await raw.synchronize()
        await until(lambda: work.calls)
        if ending == "reset":
            await raw.send(reset(1), reset(2))
            await raw.synchronize()
        elif ending == "lost":
            await raw.close()
        elif ending == "stop":
            here.server.close()
        else:
            work.end(b"2")
        await until(lambda: here.server.statistics().calls_in_flight == (1 if ending == "timeout" else 0))
        if ending in ("timeout", "stop"):
            assert (work.calls[0].is_reset, work.calls[0].abort_reason) == (True, ending)
        assert len(work.calls) == 1
        work.end(b"1")
        work.end(b"2")
        await until(lambda: here.server.statistics().calls_running == 0)
        if ending == "reset":
            await raw.synchronize()
        await raw.close()
    # The end of the stop grace is the one that takes back what no thread has taken.
    assert len(work.calls) == (1 if ending == "stop" else 2)


@pytest.mark.both_protocols
@pytest.mark.row(10, 21)
async def test_a_stuck_thread_does_not_keep_the_stopped_server(caplog: pytest.LogCaptureFixture) -> None:
    """It is named and left behind; and row 21: the stop has waited as long as it may."""
    work = ThreadWork()
    began = asyncio.get_running_loop().time()
    async with serving(work.app(), stop_grace=0.05, abort_grace=0.1) as here:
        async with await here.raw() as raw:
            await raw.send(request(1, "work", b"stuck"))
            await until(lambda: work.calls)
        here.server.close()
        async with asyncio.timeout(PATIENCE):
            await here.server.wait_closed()
    assert asyncio.get_running_loop().time() - began >= 0.15
    assert (work.running, work.calls[0].is_reset) == (1, True)
    (record,) = caplog.records
    assert "'work'" in record.getMessage()
    assert "thread" in record.getMessage()
    assert all(thread.daemon for thread in threading.enumerate() if thread.name.startswith("sockrpc"))
    work.end(b"stuck")
    await until(lambda: work.running == 0)


async def test_threads_end_with_their_server() -> None:
    work = ThreadWork()
    before = set(threading.enumerate())
    async with serving(work.app()) as here, await here.raw() as raw:
        await raw.send(*(request(id, "work", b"x") for id in range(4)))
        await until(lambda: len(work.calls) == 4)
        work.end(b"x")
        for _ in range(4):
            await raw.answer()
    await until(lambda: set(threading.enumerate()) <= before)
