"""Work beside a handler: tasks that it spawns for its call, and waiting for the abort of that."""

cimport cython

import asyncio

from sockrpc.peer.tally cimport ENDING_RESET
from sockrpc.peer.work cimport Work

cdef object CancelledError = asyncio.CancelledError


cdef int cancels_of_task() except -1:
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


cdef class Spawning(Work):
    """The part of a call that spawns tasks and takes back cancels."""

    @cython.nonecheck(True)
    def spawn_and_abort_on_reset(self, coroutine) -> asyncio.Task:
        """Run a coroutine in a task of its own that an abort of this call cancels.

        If the work of the call has been cancelled already, the task is cancelled before its first step. If all
        spawned work ends and the call is not answered, it has failed.

        Raises:
            UsageError: The call is over: it was answered and its work has ended.
        """
        task = self.spawn(coroutine, self._spawned_ended)
        self.used = True
        return task

    @cython.nonecheck(True)
    async def abort_on_reset(self, coroutine):
        """Run a coroutine that an abort of this call cancels.

        Returns its result, or None after it has unwound from an abort. The abort goes to the
        coroutine instead of the caller, so it raises no CancelledError of its own; cancelling the
        caller otherwise cancels the coroutine, waits for it and goes on.
        """
        task = self.spawn(coroutine, self._awaited_ended)
        cdef int before = cancels_of_task()
        try:
            await asyncio.wait([task])
        except CancelledError:
            abort_only = self.take_back_cancel(before)
            if not task.done():
                # An abort of the call has cancelled the task already; a second cancel would mislead it.
                if not self.cancelled:
                    task.cancel()
                await asyncio.wait([task])
            if not abort_only:
                raise
        if self.cancelled:
            if not task.cancelled() and task.exception() is not None:
                self.raised(task.exception())
            return None
        return task.result()

    @cython.nonecheck(True)
    async def wait_reset(self) -> None:
        """Wait until the call is aborted. If the handler itself waits here, the abort reaches it this way."""
        cdef int before = cancels_of_task()
        if self.ending >= ENDING_RESET:
            self.seen = True
            return
        if self.reset_waiter is None:
            self.reset_waiter = self.service.context.loop.create_future()
        try:
            await asyncio.shield(self.reset_waiter)
        except CancelledError:
            if not self.take_back_cancel(before):
                raise
        self.seen = True

    cdef bint take_back_cancel(self, int before) except -1:
        """In a CancelledError: True if the abort of this call is all that has cancelled the running task.

        The abort reaches the handler through the thing it waits for, so the cancel of its task is taken back.
        `before` is the number of times the task had been cancelled when it began to wait.
        """
        task = asyncio.current_task()
        if self.ending < ENDING_RESET or not self.cancelled or task is not self.task or task.cancelling() <= before:
            return False
        return task.uncancel() <= before
