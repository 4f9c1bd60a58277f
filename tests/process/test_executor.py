"""The threads of an event loop itself: an executor as any other, but for the end of the process."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path

import pytest

import sockrpc
from sockrpc.process.loop_threads import LoopThreads
from tests.kit.command import PATIENCE, POSIX, Command
from tests.kit.support import started
from tests.peer.test_cancellation_threads import no_more_threads, out_of_threads

__all__ = ["no_more_threads"]

LOOPS = ["asyncio", pytest.param("uvloop", marks=POSIX)]


@pytest.fixture
def threads() -> Iterator[LoopThreads]:
    made = LoopThreads(2)
    yield made
    made.shutdown(cancel_futures=True)
    assert not made.unfinished()


def names() -> set[str]:
    return {each.name for each in threading.enumerate() if each.name.startswith("sockrpc-loop")}


def test_results_and_exceptions_come_back(threads: LoopThreads) -> None:
    assert threads.submit(int, "12", base=8).result(PATIENCE) == 10
    assert list(threads.map(str, [1, 2, 3])) == ["1", "2", "3"]
    with pytest.raises(ZeroDivisionError):
        threads.submit(lambda: 1 // 0).result(PATIENCE)
    with pytest.raises(SystemExit):
        threads.submit(exit, 3).result(PATIENCE)


def test_there_are_as_many_threads_as_have_to_do_at_once_and_no_more_than_the_most(
    threads: LoopThreads,
) -> None:
    go = threading.Event()
    for _ in range(3):
        threads.submit(int).result(PATIENCE)
    assert len(names()) <= 2
    waiting = [threads.submit(go.wait, PATIENCE) for _ in range(5)]
    assert len(names()) == 2
    assert len(threads.unfinished()) == 5
    # What no thread has taken can be cancelled.
    assert waiting[4].cancel()
    go.set()
    assert [each.result(PATIENCE) for each in waiting[:4]] == [True] * 4
    with pytest.raises(CancelledError):
        waiting[4].result(PATIENCE)


def test_what_is_submitted_after_the_shutdown_is_refused_and_what_was_before_is_done() -> None:
    threads = LoopThreads(1)
    go = threading.Event()
    running, waiting = threads.submit(go.wait, PATIENCE), threads.submit(int)
    threads.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="after shutdown"):
        threads.submit(int)
    go.set()
    threads.shutdown()
    assert (running.result(), waiting.result()) == (True, 0)
    assert not names()


def test_a_shutdown_may_cancel_what_waits() -> None:
    threads = LoopThreads(1)
    go, begun = threading.Event(), threading.Event()
    running = threads.submit(lambda: begun.set() or go.wait(PATIENCE))
    waiting = threads.submit(int)
    assert begun.wait(PATIENCE)
    threads.shutdown(wait=False, cancel_futures=True)
    go.set()
    threads.shutdown()
    assert running.result()
    assert waiting.cancelled()


@out_of_threads
def test_what_was_cancelled_before_it_began_is_not_called_unfinished() -> None:
    threads = LoopThreads(1)
    gate = threading.Event()
    running = threads.submit(gate.wait, PATIENCE)
    waiting = threads.submit(int)
    assert waiting.cancel()
    assert [*threads.unfinished()] == [running]
    gate.set()
    threads.shutdown()
    assert not threads.unfinished()


def test_without_a_thread_to_be_had_the_submission_fails(no_more_threads: None) -> None:
    threads = LoopThreads(2)
    with pytest.raises(RuntimeError):
        threads.submit(int)
    threading.stack_size(0)
    assert threads.submit(int).result(PATIENCE) == 0
    threads.shutdown()


def test_nothing_is_kept_of_what_has_ended(threads: LoopThreads) -> None:
    class Argument:
        pass

    def fail(argument: Argument) -> None:
        raise LookupError

    gc.disable()
    try:
        argument = Argument()
        future: Future[None] = threads.submit(fail, argument)
        assert isinstance(future.exception(PATIENCE), LookupError)
        gone = weakref.ref(future)
        threads.submit(int).result(PATIENCE)
        threads.submit(int).result(PATIENCE)
        threads.shutdown()
        del future
        assert gone() is None
    finally:
        gc.enable()


async def test_an_event_loop_takes_them_and_they_are_named_by_what_was_asked_for(loop_kind: str) -> None:
    threads = LoopThreads()
    asyncio.get_running_loop().set_default_executor(threads)
    go, goes = threading.Event(), threading.Event()

    def work(number: int) -> int:
        goes.set()
        assert go.wait(PATIENCE)
        return number

    called = await started(asyncio.to_thread(work, 7))
    assert await asyncio.to_thread(goes.wait, PATIENCE)
    (name,) = threads.unfinished().values()
    assert name == f"{__name__}.{work.__qualname__}"
    go.set()
    assert await called == 7
    await asyncio.get_running_loop().shutdown_default_executor()
    assert not names()


PROGRAM = """
import asyncio
import threading
import sockrpc

app = sockrpc.App()
go = threading.Event()
ended = threading.Event()

def stuck():
    print("stuck", flush=True)
    threading.Event().wait()

async def turns():
    for _ in range(100):
        await asyncio.sleep(0)

def close():
    loop.call_soon_threadsafe(server.close)

# The server stops when both have begun: what has not begun by then never does.
begun = threading.Barrier(2, close)

def ends():
    begun.wait()
    go.wait()
    print("ends", flush=True)
    ended.set()

def ends_later():
    begun.wait()
    ended.wait()
    # The loop still turns, and this ends a hundred of its turns later.
    asyncio.run_coroutine_threadsafe(turns(), loop).result()
    print("ends later", flush=True)

@app.method
async def call_stuck(call):
    await asyncio.to_thread(stuck)

@app.on
def stop(notification):
    server.close()

@app.on
def stop_while_two_run(notification):
    async def let_them_end():
        try:
            await asyncio.Event().wait()
        finally:
            go.set()
    global task, futures
    task = asyncio.ensure_future(let_them_end())
    futures = [asyncio.get_running_loop().run_in_executor(None, each) for each in (ends, ends_later)]

def started(started):
    global loop, server
    loop = asyncio.get_running_loop()
    server = started
    print(server.sockets[0].getsockname()[1], flush=True)

sockrpc.run(app, port=0, on_started=started, loop=LOOP, stop_grace=0.1, abort_grace=0.1)
print("returned", flush=True)
"""


@pytest.mark.parametrize("loop", LOOPS)
def test_a_function_that_does_not_end_does_not_keep_the_process_and_is_named(
    tmp_path: Path, loop: str
) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM.replace("LOOP", repr(loop)))
    with Command(program=(str(script),)) as program:

        async def test() -> None:
            async with sockrpc.connect(f"ws://127.0.0.1:{program.line()}/") as client:
                await started(client.call("call_stuck"))
                assert await asyncio.to_thread(program.line) == "stuck"
                await client.notify("stop")
                await client.wait_closed()

        asyncio.run(test())
        assert program.line() == "returned"
        assert program.end() == 0
        assert program.log == [
            "1 functions that run in threads of the event loop are left behind: __main__.stuck"
        ]


def test_the_end_is_waited_for_no_longer_than_something_runs(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        "from sockrpc.process import event_loop\nevent_loop.LAST_CHANCE = 3600.0\n"
        + PROGRAM.replace("LOOP", "'auto'")
    )
    with Command(program=(str(script),)) as program:

        async def test() -> None:
            async with sockrpc.connect(f"ws://127.0.0.1:{program.line()}/") as client:
                await client.notify("stop_while_two_run")
                await client.wait_closed()

        asyncio.run(test())
        assert [program.line(), program.line(), program.line()] == ["ends", "ends later", "returned"]
        assert (program.end(), program.log) == (0, [])


@POSIX
def test_nor_does_it_keep_a_worker(tmp_path: Path) -> None:
    (tmp_path / "served.py").write_text(PROGRAM.partition("@app.on\n")[0])
    graces = ("--stop-grace", "0.1", "--abort-grace", "0.1")
    with Command("serve", "served:app", "--workers", "2", "--port", "0", *graces, cwd=tmp_path) as server:
        uri = server.line().partition(" ")[0].replace("http", "ws")

        async def test() -> None:
            async with sockrpc.connect(uri) as client:
                await started(client.call("call_stuck"))
                assert await asyncio.to_thread(server.line) == "stuck"
                server.process.terminate()
                await client.wait_closed()

        asyncio.run(test())
        assert server.end() == 0
        assert server.logged("are left behind: served.stuck")
        assert not server.logged("has not stopped")


def test_there_are_as_many_as_asyncio_has() -> None:
    from concurrent.futures import ThreadPoolExecutor

    threads, over, before = LoopThreads(), threading.Event(), threading.active_count()
    assert isinstance(threads, ThreadPoolExecutor)
    most = min(32, (os.cpu_count() or 1) + 4)
    try:
        for _ in range(most + 3):
            threads.submit(over.wait)
        assert threading.active_count() - before == most
    finally:
        over.set()
        threads.shutdown()
