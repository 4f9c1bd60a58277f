"""Worker threads for blocking handlers.

They are daemonic so that a stuck one cannot keep a stopped server alive; the interpreter joins those of
concurrent.futures when it ends.

All state belongs to the event loop's thread; a worker only runs functions and reports back.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from queue import SimpleQueue

__all__ = ["HandlerThreads", "Job"]


class Job:
    """A function call that waits for a thread or runs in one."""

    __slots__ = ("argument", "context", "done", "function", "key", "started")

    def __init__(
        self,
        function: Callable[[object], object],
        argument: object,
        started: Callable[[], None],
        done: Callable[[object, BaseException | None], None],
        context: contextvars.Context | None,
        key: Hashable,
    ) -> None:
        self.function = function
        self.argument = argument
        self.started = started
        self.done = done
        self.key = key
        self.context = contextvars.copy_context() if context is None else context

    def run(self) -> tuple[object, BaseException | None]:
        """Run the function, in a worker thread."""
        try:
            return self.context.run(self.function, self.argument), None
        except BaseException as error:  # the loop's thread decides what it means
            return None, error


class PendingJobs:
    """Jobs that wait for a thread; their keys take turns, so that no key holds up the others.

    Every operation takes constant time.
    """

    def __init__(self) -> None:
        # Keys in the order of their turns, each with its jobs in order of arrival.
        self._keys: OrderedDict[Hashable, OrderedDict[Job, None]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._keys)

    def add(self, job: Job) -> None:
        """Queue a job behind those with the same key; a new key gets the last turn."""
        self._keys.setdefault(job.key, OrderedDict())[job] = None

    def remove(self, job: Job) -> bool:
        """Remove a waiting job; False if it did not wait."""
        jobs = self._keys.get(job.key)
        if jobs is None or job not in jobs:
            return False
        del jobs[job]
        if not jobs:
            del self._keys[job.key]
        return True

    def take(self) -> Job:
        """Return the job whose turn it is."""
        key, jobs = self._keys.popitem(last=False)
        job, _ = jobs.popitem(last=False)
        if jobs:
            self._keys[key] = jobs
        return job


class HandlerThreads:
    """At most `max_threads` threads, started on demand.

    Args:
        loop: The loop that `submit` is called on and that results come back to.
        max_threads: How many jobs run at once. Others wait: those with the same key in order of
            arrival, and the keys take turns.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, max_threads: int) -> None:
        self._loop = loop
        self._max_threads = max_threads
        self._threads = 0
        self._idle: list[SimpleQueue[Job | None]] = []
        self._pending = PendingJobs()
        self._closed = False

    def submit(
        self,
        function: Callable[[object], object],
        argument: object,
        started: Callable[[], None],
        done: Callable[[object, BaseException | None], None],
        context: contextvars.Context | None = None,
        key: Hashable = None,
    ) -> Job:
        """Run `function(argument)` in a thread.

        Args:
            function: The function to run.
            argument: Its only argument.
            started: Called on the loop when a thread takes the job.
            done: Called on the loop, with the result and the exception, when the function has ended.
            context: The context variables that the function sees; nothing else runs in it. By default it is a
                copy of the current ones.
            key: The owner of the job.
        """
        job = Job(function, argument, started, done, context, key)
        if self._idle:
            self._assign(self._idle.pop(), job)
        elif self._threads < self._max_threads:
            self._start_thread(job)
        else:
            self._pending.add(job)
        return job

    def withdraw(self, job: Job) -> bool:
        """Take back a job that no thread has taken; False if one has."""
        return self._pending.remove(job)

    def close(self) -> None:
        """End the idle threads now and the busy ones when they become idle."""
        self._closed = True
        for inbox in self._idle:
            inbox.put(None)
        self._idle.clear()

    def _start_thread(self, job: Job) -> None:
        inbox: SimpleQueue[Job | None] = SimpleQueue()
        name = f"sockrpc-{self._threads + 1}"
        try:
            threading.Thread(target=self._work, args=(inbox,), name=name, daemon=True).start()
        except RuntimeError as error:
            # The system cannot start another thread, so the job waits for an existing one.
            if self._threads:
                self._pending.add(job)
            else:
                self._loop.call_soon(job.done, None, error)
            return
        self._threads += 1
        self._assign(inbox, job)

    def _assign(self, inbox: SimpleQueue[Job | None], job: Job) -> None:
        job.started()
        inbox.put(job)

    def _work(self, inbox: SimpleQueue[Job | None]) -> None:
        while (job := inbox.get()) is not None:
            result, error = job.run()
            try:
                self._loop.call_soon_threadsafe(self._finished, inbox, job, result, error)
            except RuntimeError:
                # The loop is closed because the server has stopped without this thread.
                return
            del job, result, error

    def _finished(
        self, inbox: SimpleQueue[Job | None], job: Job, result: object, error: BaseException | None
    ) -> None:
        if self._pending:
            self._assign(inbox, self._pending.take())
        elif self._closed:
            inbox.put(None)
        else:
            self._idle.append(inbox)
        job.done(result, error)
