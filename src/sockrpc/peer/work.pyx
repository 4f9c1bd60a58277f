"""The work of one call: its handler's task or thread and the tasks it spawned, which are cancelled once."""

cimport cython

import asyncio
import inspect

from sockrpc.peer.handler cimport KIND_GENERATOR
from sockrpc.peer.procedure cimport Procedure
from sockrpc.peer.states cimport CALLEE_STOPPING
from sockrpc.peer.tally cimport ENDING_NONE, ENDING_RESET, ENDING_TIMED_OUT
from sockrpc.websocket.loop cimport LoopContext

from sockrpc.errors import UsageError


cdef bint has_begun(object task) except -1:
    # Before 3.12, and with a task factory, a task that is cancelled at once never runs.
    coroutine = task.get_coro()
    return not inspect.iscoroutine(coroutine) or inspect.getcoroutinestate(coroutine) != inspect.CORO_CREATED


cdef class Work(Procedure):
    """The work of a call. When nothing of it is left, `finish` is called."""

    cdef int returned(self, object result) except -1:
        raise NotImplementedError

    cdef int raised(self, object error) except -1:
        raise NotImplementedError

    cdef int abort(self, int ending, bint forced) except -1:
        raise NotImplementedError

    cdef int finish(self) except -1:
        raise NotImplementedError

    @cython.nonecheck(True)
    cdef object spawn(self, object coroutine, object when_done):
        cdef LoopContext context = self.service.context
        if not context.is_here:
            coroutine.close()
            raise UsageError("this call belongs to another thread; only its loop's can spawn")
        if self.is_over() and self.ending < ENDING_RESET:
            coroutine.close()
            raise UsageError(f"call {self.id} of {self.name!r} is over")
        # The caller continues first, as with asyncio.create_task, whatever the loop's task factory does.
        task = context.create_task(coroutine)
        if self.is_over() or self.cancelled:
            self.service.keep(task)
            task.cancel()
            return task
        self.spawned = self.spawned or []
        try:
            self.spawned.append(task)
            task.add_done_callback(when_done)
        except BaseException:  # pragma: no memory
            # Out of memory; without the callback the task would be counted for ever.
            self.spawned = [each for each in self.spawned if each is not task]  # pragma: no memory
            task.cancel()  # pragma: no memory
            raise  # pragma: no memory
        self.work_began()
        return task

    cdef int start_coroutine(self, object coroutine, object variables) except -1:
        task = self.start_task(coroutine, variables)
        self.starting = False
        if task.done():
            self.began = True
            self.handler_ended(task)
            if self.work == 0:
                self.finish()
            return 0
        self.task = task
        task.add_done_callback(self, context=self.connection.callback_context())
        self.work_began()
        if self.cancelled:
            self.seen = True
            task.cancel()
        elif self.connection.ended and not self.is_protected():
            # The handler answered and then ended its own connection, all in its first step.
            self.cancel_work()
        return 0

    cdef int start_timer(self) except -1:
        self.timer = self.service.context.loop.call_later(self.handler.timeout, self._timed_out)

    cdef int stop_timer(self) except -1:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _timed_out(self) -> None:
        self.timer = None
        # Nothing but the end of a stop reaches work that is committed.
        self.abort(ENDING_TIMED_OUT, not self.committed)

    cdef bint owns(self, object task) except -1:
        return task is self.task or (self.spawned is not None and task in self.spawned)

    # These callbacks count the ended work down even if they raise.
    def __call__(self, task):
        # The call itself is the callback of its task, which saves an object for every call.
        if task is not self.task:
            raise TypeError("a Call is not callable")
        try:
            self.handler_ended(task)
        finally:
            self.work_ended()

    cdef int handler_ended(self, object task) except -1:
        if not self.cancelled:
            self.began = True
        try:
            result = task.result()
        except BaseException as error:
            return self.raised(error)
        return self.returned(result)

    def _spawned_ended(self, task: asyncio.Task[object]) -> None:
        try:
            self.spawned.remove(task)
            if not task.cancelled() and task.exception() is not None:
                self.raised(task.exception())
        finally:
            self.work_ended()

    def _awaited_ended(self, task: asyncio.Task[object]) -> None:
        # abort_on_reset re-raises the exception; an unanswered call is not a failure yet.
        self.spawned.remove(task)
        if self.ending != ENDING_NONE or self.work > 1:
            self.work_ended()
        else:
            self.work = 0
            self.queue.remove(self)

    def _thread_started(self) -> None:
        self.began = True
        if self.handler.timeout:
            self.start_timer()

    def _thread_ended(self, result, error) -> None:
        self.job = None
        try:
            if error is not None:
                self.raised(error)
            else:
                self.returned(result)
        finally:
            self.work_ended()

    cdef int cancel_work(self) except -1:
        if self.cancelled or not self.counts:
            return 0
        # Cancel exactly once, or asyncio.timeout and TaskGroup inside the handler are misled.
        self.cancelled = True
        self.stop_timer()
        self.cancel_tasks()
        if self.job is not None and self.service.threads.withdraw(self.job):
            # No thread had taken the job.
            self.job = None
            self.work_ended()
        elif self.work == 0 and not self.starting and (self.handler is not None or self.state != CALLEE_STOPPING):
            # In the socket form of v1 the application still has the call; it ends when it was let go.
            self.finish()
        return 0

    cdef int cancel_tasks(self) except -1:
        cdef list spawned = [] if self.spawned is None else [(task, task.cancelling()) for task in self.spawned]
        if self.task is not None:
            if not self.began and self.handler.kind != KIND_GENERATOR and has_begun(self.task):
                self.began = True
            if self.task.cancel():
                self.seen = True
        for task, before in spawned:
            # The handler's cancel has already reached this task because the handler awaits it.
            if task.cancelling() == before:
                task.cancel()
            self.seen = True
        return 0

    cdef int cancel_again(self) except -1:
        """Cancel the work again, which happens only at the end of the abort grace of a stopping server."""
        self.report(
            "method %r has not ended%s after its abort; it is cancelled again and left behind",
            (self.name, " in its thread" if self.job is not None else ""), None)
        return self.cancel_tasks()

    cdef int work_began(self) except -1:
        self.work += 1
        if self.queue is None:
            # The loop refers to tasks only weakly, so the connection holds them.
            self.connection.active_queue().push(self)
        return 0

    cdef int work_ended(self) except -1:
        self.work -= 1
        if self.work == 0 and not self.starting:
            self.finish()
        return 0
