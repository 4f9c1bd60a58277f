"""The threads of an event loop itself, for `asyncio.to_thread` and `loop.run_in_executor(None, ...)`."""

from __future__ import annotations

import contextvars
import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

__all__ = ["LoopThreads"]

P = ParamSpec("P")
R = TypeVar("R")

# A job: its future, and what makes the result.
Job = tuple["Future[Any]", Callable[[], Any]]

# As many as asyncio's own executor has.
MOST_THREADS = min(32, (os.cpu_count() or 1) + 4)


class LoopThreads(ThreadPoolExecutor):
    """An executor whose threads cannot keep a process that has stopped.

    Python waits at its end for the threads of any other ThreadPoolExecutor, however long their functions
    take. It is derived from that as asyncio accepts nothing else, but uses nothing of it.
    """

    def __init__(self, max_threads: int = MOST_THREADS) -> None:
        super().__init__(max_threads)
        self._most = max_threads
        self._lock = threading.Lock()
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        # The jobs that have not ended, waiting or running, each with its description.
        self._unfinished: dict[Future[Any], str] = {}
        self._own_threads: list[threading.Thread] = []
        self._is_closed = False

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Run `fn(*args, **kwargs)` in a thread."""
        future: Future[R] = Future()
        with self._lock:
            if self._is_closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if len(self._own_threads) < min(self._most, len(self._unfinished) + 1):
                self._start_thread()
            self._unfinished[future] = described(fn, args)
            self._jobs.put((future, functools.partial(fn, *args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs; those that were submitted are done, unless they are cancelled."""
        if cancel_futures:
            for future in self.unfinished():
                future.cancel()
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                for _ in self._own_threads:
                    self._jobs.put(None)
        if wait:
            for thread in self._own_threads:
                thread.join()

    def unfinished(self) -> dict[Future[Any], str]:
        """Return the jobs that have not ended, each with its description for the log."""
        with self._lock:
            return {future: name for future, name in self._unfinished.items() if not future.done()}

    def _start_thread(self) -> None:
        name = f"sockrpc-loop-{len(self._own_threads) + 1}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # The system has no thread left for us; jobs wait for those that we have.
            if not self._own_threads:
                raise
        else:
            self._own_threads.append(thread)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, make = job
            try:
                if future.set_running_or_notify_cancel():
                    run(future, make)
            finally:
                with self._lock:
                    del self._unfinished[future]
            # The names would keep the objects alive until the next job.
            del job, future, make


def run(future: Future[Any], make: Callable[[], Any]) -> None:
    """Give a future its result."""
    try:
        result = make()
    except BaseException as error:
        future.set_exception(error)
        # The exception refers to this frame, and the future to the exception.
        del future
    else:
        future.set_result(result)


def described(function: Callable[..., Any], arguments: tuple[Any, ...]) -> str:
    """A function by its name, also where `asyncio.to_thread` has wrapped it."""
    if isinstance(function, functools.partial):
        return described(function.func, (*function.args, *arguments))
    if isinstance(getattr(function, "__self__", None), contextvars.Context) and arguments:
        return described(arguments[0], arguments[1:])
    name = getattr(function, "__qualname__", None)
    return f"{getattr(function, '__module__', None)}.{name}" if name else repr(function)
