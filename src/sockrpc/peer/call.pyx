"""Calls on the side that serves them.

A call ends for its client exactly once: by an answer, a failure or an abort, whichever takes it out of the
request table first. Its work may still be unwinding after that; the call counts against the limits until
all of that work has ended.
"""

cimport cython
from cpython.ref cimport Py_DECREF, PyObject
from libc.stdint cimport uint8_t

import asyncio

from sockrpc._debug cimport DEBUG
from sockrpc._frames cimport encode_payload, write_response
from sockrpc.peer.handler cimport KIND_THREAD, Handler, is_coroutine
from sockrpc.peer.raising cimport call_one, take_raised
from sockrpc.peer.states cimport (
    CALLEE_IGNORE, CALLEE_INPUTS, CALLEE_LOG, CALLEE_ON_ANSWER, CALLEE_ON_FAIL, CALLEE_ON_GATE,
    CALLEE_ON_RESET, CALLEE_RESPOND, CALLEE_START, CALLEE_WITHDRAW, Cell, take_callee_row,
)
from sockrpc.peer.tally cimport (
    ENDING_ANSWERED, ENDING_FAILED, ENDING_NONE, ENDING_RESET, abort_reason, observe,
)
from sockrpc.peer.undo cimport UndoHooks
from sockrpc.peer.variables cimport enter_variables, exit_variables
from sockrpc.peer.work cimport Work

from sockrpc.errors import UsageError

cdef object CancelledError = asyncio.CancelledError


cdef int cancels_of_task() except -1:
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


@cython.final
cdef class Call(Work):
    """A call, as its handler sees it. It is in flight until it is answered or reset."""

    def __init__(self, *args, **kwargs):
        raise TypeError("a Call is made by the server that received it")

    def __del__(self):
        # A call is dropped only in the socket form, in any thread; elsewhere its work keeps it alive. If its loop was
        # closed over it, nobody can answer it any more, which is no failure of its own.
        if self.table is not None and not self.service.context.loop.is_closed():
            self.service.context.call_in_loop(self._dropped)

    def _dropped(self) -> None:
        self.fail("was dropped without an answer", None)
        self.finish()

    @property
    def method(self) -> str:
        """The name that was called."""
        return self.name

    @property
    def is_reset(self) -> bool:
        """True once the call is aborted, for any reason. It may be read from any thread."""
        return self.ending >= ENDING_RESET

    @property
    def abort_reason(self) -> str | None:
        """The reason of the abort ('reset', 'lost', 'timeout' or 'stop'); None if the call is not aborted."""
        return abort_reason(self.ending)

    def raise_if_reset(self) -> None:
        """For work in a thread: raise `asyncio.CancelledError` once the call is aborted."""
        if self.ending >= ENDING_RESET:
            raise CancelledError

    @cython.nonecheck(True)
    async def respond(self, payload) -> bool:
        """Answer the call.

        Never waits. Returns True if the answer was queued, False if the call had been aborted, when
        nothing is sent.

        Args:
            payload: bytes, bytearray, memoryview, or str (sent as UTF-8).

        Raises:
            UsageError: The call is over because it was answered before.
        """
        cdef bytes encoded = encode_payload(payload)
        if self.ending == ENDING_ANSWERED or self.ending == ENDING_FAILED:
            raise UsageError(f"call {self.id} of {self.name!r} is over: it was answered or has failed")
        self.used = True
        if not self.answer(encoded):
            return False
        if self.work == 0 and not self.starting:
            self.finish()
        return True

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
            return
        if self.reset_waiter is None:
            self.reset_waiter = self.service.context.loop.create_future()
        try:
            await asyncio.shield(self.reset_waiter)
        except CancelledError:
            if not self.take_back_cancel(before):
                raise

    cdef bint take_back_cancel(self, int before) except -1:
        """In a CancelledError: True if the abort of this call is all that has cancelled the running task.

        The abort reaches the handler through the thing it waits for, so the cancel of its task is taken back.
        `before` is the number of times the task had been cancelled when it began to wait.
        """
        task = asyncio.current_task()
        if self.ending < ENDING_RESET or not self.cancelled or task is not self.task or task.cancelling() <= before:
            return False
        return task.uncancel() <= before

    @cython.nonecheck(True)
    def on_abort(self, callback, *args) -> None:
        """Register an undo hook: a function or coroutine function, run if the call is aborted.
Hooks run one after another, the last registered first, once the handler's task or thread has
ended, even if the handler swallowed the cancel. An exception in a hook is logged and does not stop the
next. If the call is aborted and its work has ended already, the hook runs at once. Hooks do not run
for a call that was answered or that failed by itself.
        """
        if self.undo is None:
            self.undo = UndoHooks(self.service, self.name, self.id, self._log_fields)
        self.undo.hooks.append((callback, args))
        if self.is_over() and self.undo_is_due():
            self.service.context.call_in_loop(self._run_late_hooks)

    def _run_late_hooks(self) -> None:
        if self.undo_is_due():
            self.run_hooks()

    @cython.nonecheck(True)
    def __repr__(self) -> str:
        return f"<Call {self.id} of {self.name!r}, {len(self.payload)} bytes>"

    cdef int begin(self) except -1:
        cdef Handler handler = self.handler
        cdef PyObject *returned
        cdef object variables
        # The call counts already; if anything raises from here on, `end` uncounts it.
        self.taken()
        variables = self.connection.fresh_variables()
        if handler.kind == KIND_THREAD:
            self.job = self.service.threads.submit(
                handler.function, self, self._thread_started, self._thread_ended, variables, self.connection)
            return self.work_began()
        if handler.timeout:
            self.start_timer()
        self.starting = True
        enter_variables(variables)
        returned = call_one(handler.function, self)
        exit_variables(variables)
        if returned == NULL:
            self.raised(take_raised())
        else:
            result = <object> returned
            Py_DECREF(result)
            if type(result) is not bytes and is_coroutine(result):
                return self.start_coroutine(result, variables)
            self.returned(result)
        self.starting = False
        if self.work == 0:
            self.finish()
        return 0

    cdef int interrupted(self, object error) except -1:
        # This is SystemExit or KeyboardInterrupt from a function or an eager first step, or a lack of memory.
        self.starting = False
        try:
            self.fail("failed" if isinstance(error, Exception) else "was ended by the process's own end", None)
        finally:
            if self.task is not None:
                # The task may have no done callback yet.
                self.task.cancel()  # pragma: no memory
            if self.work == 0:
                self.finish()
        return 0

    cdef int taken(self) except -1:
        self.step(CALLEE_ON_GATE, ENDING_NONE)
        self.counts = True
        return 0

    cdef int returned(self, object result) except -1:
        cdef bytes payload
        if self.ending >= ENDING_FAILED or (self.used and result is None):
            return 0
        if self.ending == ENDING_ANSWERED:
            return self.report(
                "method %r returned a value after it had answered call %d; the value is dropped",
                (self.name, self.id), None)
        if type(result) is bytes:
            payload = result
        else:
            try:
                payload = b"" if result is None else encode_payload(result)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                # The check runs code of the object itself, which may raise anything.
                return self.fail(
                    f"returned what cannot be sent: {error}" if isinstance(error, (TypeError, ValueError))
                    else "returned what cannot be sent",
                    None if isinstance(error, (TypeError, ValueError)) else error)
        self.answer(payload)
        return 0

    cdef int raised(self, object error) except -1:
        if self.ending == ENDING_NONE:
            if isinstance(error, CancelledError):
                # No abort did this, so it is a failure; staying silent would look like an abort.
                return self.fail("was cancelled by something other than an abort", error)
            return self.fail("failed", error)
        if not isinstance(error, CancelledError):
            self.report("method %r raised after call %d was over", (self.name, self.id), error)
        return 0

    # A Call that was made by hand has no connection.
    @cython.nonecheck(True)
    cdef int step(self, int input, int ending) except -1:
        # The index is within the table because both numbers come from its enums.
        cdef const Cell *cell = &self.connection.life.callee[self.state * CALLEE_INPUTS + input]
        if DEBUG:
            take_callee_row(self.connection.life, self.state, input)
        self.state = cell.next
        if cell.action > CALLEE_START:
            # The call is over for the peer: the first to get here takes it out of the table and is counted.
            self.table.take(self)
            self.ending = ending
            self.tally.ended[ending] += 1
        return cell.action

    cdef bint answer(self, bytes payload) except -1:
        cdef uint8_t prefix[5]
        if self.table is not None and self.connection.write_paused and self.connection.is_full():
            # The peer does not read, so this aborts the call with all its others.
            self.connection.close_slow()
        if self.step(CALLEE_ON_ANSWER, ENDING_ANSWERED) != CALLEE_RESPOND:
            return False
        observe(&self.tally.answers, self.service.context.tick() - self.since)
        self.connection.send(prefix, write_response(prefix, self.id), payload)
        self.connection.on_answered()
        return True

    cdef int fail(self, str what, object error) except -1:
        if self.step(CALLEE_ON_FAIL, ENDING_FAILED) != CALLEE_LOG:
            return 0
        self.report("call %d of method %r from %s %s", (self.id, self.name, self.connection.peer, what), error)
        # No answer is possible any more, so the spawned work is of no use.
        if self.spawned:
            self.cancel_work()
        return 0

    cdef int mark_aborted(self, int ending) except -1:
        """Do the first half of an abort, after which nothing can answer the call. `abort` does the second."""
        # The inputs and the endings of aborts have the same order.
        cdef int action = self.step(CALLEE_ON_RESET + ending - ENDING_RESET, ending)
        if action != CALLEE_IGNORE:
            self.since = self.connection.read_at if ending == ENDING_RESET else self.service.context.tick()
        return action

    cdef int abort(self, int ending, bint forced) except -1:
        """Abort the call; `forced` (a timeout, the end of the stop grace) reaches run_to_completion too."""
        cdef int action = self.mark_aborted(ending)
        if action == CALLEE_IGNORE and self.ending >= ENDING_RESET and forced and not self.cancelled:
            self.ending = ending
            self.since = self.service.context.tick()
        if self.reset_waiter is not None and not self.reset_waiter.done():
            self.reset_waiter.set_result(None)
        if action == CALLEE_WITHDRAW:
            self.connection.on_left_waiting(self)
            return 0
        if self.handler is not None and self.handler.run_to_completion and not forced:
            return 0
        return self.cancel_work()

    cdef int finish(self) except -1:
        """Finish the call as far as possible when no work is left."""
        if self.ending == ENDING_NONE or self.timer is not None:
            try:
                if self.ending == ENDING_NONE:
                    self.fail("ended without an answer", None)
                self.stop_timer()
            except BaseException:  # pragma: no memory
                self.end()  # pragma: no memory
                raise  # pragma: no memory
        if self.undo is not None and self.undo_is_due():
            return self.run_hooks()
        return self.end()

    cdef int end(self) except -1:
        if self.queue is not None:
            self.queue.remove(self)
        self.task = None
        self.spawned = None
        if self.ending < ENDING_RESET:
            # These hooks never run, and they may refer to the call.
            self.undo = None
        if self.cancelled and self.ending >= ENDING_RESET:
            observe(&self.tally.unwinding, self.service.context.tick() - self.since)
        if self.counts:
            self.counts = False
            self.connection.on_work_ended(self)
        return 0

    cdef bint undo_is_due(self) noexcept:
        return self.undo.hooks and self.ending >= ENDING_RESET and (self.cancelled or self.cancel_is_due)

    @cython.nonecheck(True)
    cdef int run_hooks(self) except -1:
        if self.undo.running:
            return 0
        self.undo.running = True
        self.work_began()
        try:
            # A thousand calls reset at once have a thousand hooks, so these take turns too.
            return self.connection.in_turn_or_later(self._start_hooks, ())
        except BaseException:  # pragma: no memory
            if self.undo is not None:  # pragma: no memory
                self.undo = None  # pragma: no memory
                self.work_ended()  # pragma: no memory
            raise  # pragma: no memory

    @cython.nonecheck(True)
    def _start_hooks(self) -> None:
        try:
            task = self.undo.start()
            if not task.done():
                task.add_done_callback(self._hooks_ended)
        except BaseException:  # pragma: no memory
            # Out of memory; without this the call would never be over.
            self.undo = None  # pragma: no memory
            self.work_ended()  # pragma: no memory
            raise  # pragma: no memory
        if task.done():
            self._hooks_ended(task)
        else:
            self.service.keep(task)

    def _hooks_ended(self, task: asyncio.Task[object]) -> None:
        if not self.undo.ended(task):
            self.run_hooks()
        self.work_ended()
