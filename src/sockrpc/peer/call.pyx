"""Calls on the side that serves them.

How a call ends is settled exactly once: by an answer, a failure or an abort, whichever comes first. Its work may
still be unwinding after that; the call counts against the limits until all of that work has ended, and in
`sockrpc.v1` its end is sent only then.
"""

cimport cython
from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, PyObject
from libc.stdint cimport uint8_t

import asyncio
import sys

from sockrpc._debug cimport DEBUG
from sockrpc._frames cimport encode_payload, write_response
from sockrpc.peer.handler cimport KIND_GENERATOR, KIND_INLINE, KIND_THREAD, Handler, is_coroutine
from sockrpc.peer.options cimport CallOptions
from sockrpc.peer.raising cimport call_one, take_raised
from sockrpc.peer.states cimport (
    CALLEE_IDLE, CALLEE_IGNORE, CALLEE_INPUTS, CALLEE_LOG, CALLEE_ON_ANSWER, CALLEE_ON_ENDED, CALLEE_ON_FAIL,
    CALLEE_ON_GATE, CALLEE_ON_RESET, CALLEE_REFUSE, CALLEE_RESPOND, CALLEE_RUNNING, CALLEE_SEND_END, CALLEE_STOPPING,
    CALLEE_WAITING, CALLEE_WITHDRAW, Cell, take_callee_row,
)
from sockrpc.peer.streaming cimport Streaming
from sockrpc.peer.tally cimport (
    ENDING_ANSWERED, ENDING_FAILED, ENDING_NONE, ENDING_RESET, abort_reason, observe,
)
from sockrpc.peer.undo cimport UndoHooks
from sockrpc.peer.variables cimport enter_variables, exit_variables, set_variable

from sockrpc._frames import PROTOCOL_V0 as _PROTOCOL_V0
from sockrpc.codes import Code
from sockrpc.errors import RPCError, UsageError
from sockrpc.peer.deadline import CURRENT as _CURRENT

cdef bint EAGER = sys.version_info >= (3, 12)

# The ends of calls that were aborted, by their endings (tally.pxd).
cdef tuple ENDS = (
    None, None, RPCError(Code.INTERNAL, "internal error"), RPCError(Code.CANCELLED), None,
    RPCError(Code.DEADLINE_EXCEEDED, "the time-out of the call is over"),
    RPCError(Code.UNAVAILABLE, "the server is stopping"),
)

cdef object CancelledError = asyncio.CancelledError
# The calls that a handler makes inherit its own deadline by this variable.
cdef object CURRENT = _CURRENT


@cython.final
cdef class Call(Streaming):
    """A call, as its handler sees it. It is in flight until it is answered or reset."""

    def __init__(self, *args, **kwargs):
        raise TypeError("a Call is made by the server that received it")

    def __del__(self):
        # A call is dropped only in the socket form, in any thread; elsewhere its work keeps it alive. If its loop was
        # closed over it, nobody can answer it any more, which is no failure of its own.
        if self.table is not None and not self.service.context.loop.is_closed():
            self.service.context.call_in_loop(self._dropped)

    def _left_by_application(self) -> None:
        """In the socket form, end an aborted call, as the application has nothing more to do for it."""
        if self.state == CALLEE_STOPPING and self.handler is None and self.work == 0:
            self.finish()

    def _dropped(self) -> None:
        self.failed("was dropped without an answer", None)
        self.finish()

    @property
    def method(self) -> str:
        """The name that was called."""
        return self.name

    @property
    def is_reset(self) -> bool:
        """True once the call is aborted, for any reason. It may be read from any thread."""
        if self.ending >= ENDING_RESET:
            self._note_seen()
            return True
        return False

    @property
    def abort_reason(self) -> str | None:
        """The reason of the abort ('reset', 'lost', 'timeout' or 'stop'); None if the call is not aborted."""
        if self.ending >= ENDING_RESET:
            self._note_seen()
        return abort_reason(self.ending)

    def raise_if_reset(self) -> None:
        """For work in a thread: raise `asyncio.CancelledError` once the call is aborted."""
        if self.ending >= ENDING_RESET:
            self._note_seen()
            raise CancelledError

    @cython.nonecheck(True)
    async def respond(self, payload) -> bool:
        """Answer the call.

        It never waits. It returns True if the answer was queued. It returns False if the call had been
        aborted, when nothing is sent, or if the answer is larger than the caller takes (v1), when an error
        that says so is sent.

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
            if self.handler is None and self.ending >= ENDING_RESET:
                # Work of the socket form is aborted only where it asks for that.
                self.complete()
            self._left_by_application()
            return False
        if self.work == 0 and not self.starting:
            self.finish()
        return True

    @cython.nonecheck(True)
    async def fail(self, code, message="", details=b"") -> bool:
        """Fail the call, as a handler does by raising `RPCError`.

        Never waits. Returns True if the error is the end of the call, False if it had been aborted.

        Args:
            code: A `Code`, or an application's own from 128 to 255.
            message: For people.
            details: For programs.

        Raises:
            UsageError: The call is over, or there is no such code.
        """
        error = RPCError(code, message, details=details)
        if self.ending == ENDING_ANSWERED or self.ending == ENDING_FAILED:
            raise UsageError(f"call {self.id} of {self.name!r} is over: it was answered or has failed")
        self.used = True
        if self.ending != ENDING_NONE:
            self._left_by_application()
            return False
        self.end_with(error, "failed", error)
        if self.work == 0 and not self.starting:
            self.finish()
        return True

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
        if handler.streams and (self.options is None or self.options.outbox is None):
            # In v1 such a call was refused when it came.
            self.failed("is of a method that streams, which " + _PROTOCOL_V0 + " cannot carry", None)
            return self.finish()
        variables = self.connection.fresh_variables()
        if self.until or handler.timeout:
            enter_variables(variables)
            try:
                set_variable(CURRENT, self)
            finally:
                exit_variables(variables)
        if handler.kind >= KIND_THREAD:
            self.job = self.service.threads.submit(
                self._thread_function(handler.function), self, self._thread_started, self._thread_ended, variables,
                self.connection)
            return self.work_began()
        if handler.timeout:
            self.start_timer()
        self.starting = True
        self.began = EAGER or handler.kind == KIND_INLINE
        enter_variables(variables)
        returned = call_one(handler.function, self)
        exit_variables(variables)
        if returned == NULL:
            self.raised(take_raised())
        else:
            result = <object> returned
            Py_DECREF(result)
            if type(result) is not bytes:
                if handler.kind == KIND_GENERATOR:
                    return self.start_coroutine(self._drive(result), variables)
                if is_coroutine(result):
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
            self.failed("failed" if isinstance(error, Exception) else "was ended by the process's own end", None)
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
        # In the socket form, the application has it now.
        self.began = self.handler is None
        return 0

    cdef int returned(self, object result) except -1:
        cdef bytes payload
        if self.ending >= ENDING_FAILED or (self.used and result is None):
            return self.complete() if self.ending >= ENDING_RESET else 0
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
                if self.connection.is_v1:
                    # The work was done; only its result cannot be told.
                    self.completed = True
                return self.failed(
                    f"returned what cannot be sent: {error}" if isinstance(error, (TypeError, ValueError))
                    else "returned what cannot be sent",
                    None if isinstance(error, (TypeError, ValueError)) else error)
        self.answer(payload)
        return 0

    cdef bint end_too_large(self, bytes payload) except -1:
        """End the call, whose work was done, with an error because its result cannot be sent."""
        self.completed = True
        text = (
            f"the result has {PyBytes_GET_SIZE(payload) + 5} bytes; "
            f"at most {self.connection.largest_message()} can be sent")
        self.end_with(RPCError(Code.RESOURCE_EXHAUSTED, text), "answered with what cannot be sent", None)
        return False

    cdef int complete(self) except -1:
        """The handler has returned, although its caller had given up: see whether its effect has taken place."""
        if not self.connection.is_v1:
            return 0
        if self.cancelled and (self.seen or (self.undo is not None and self.undo.hooks)):
            return 0
        self.completed = True
        return 0

    cdef int raised(self, object error) except -1:
        if self.ending == ENDING_NONE:
            if isinstance(error, CancelledError):
                # No abort did this, so it is a failure; staying silent would look like an abort.
                return self.failed("was cancelled by something other than an abort", error)
            if isinstance(error, RPCError) and not error.received and self.connection.is_v1:
                return self.end_with(error, "failed", None)
            return self.failed("failed", error)
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
        if cell.action >= CALLEE_SEND_END:
            if cell.action >= CALLEE_WITHDRAW:
                # The first to get here settles how the call ends, and is counted.
                self.ending = ending
                self.tally.ended[ending] += 1
                if self.alarm:
                    self.connection.clear_alarm(self)
            if cell.next == CALLEE_IDLE:
                # The call is over for the peer.
                self.connection.stopping_count -= cell.action < CALLEE_WITHDRAW
                self.table.take(self)
            else:
                self.connection.stopping_count += 1
        return cell.action

    # A Call that was made by hand has no connection.
    @cython.nonecheck(True)
    cdef bint answer(self, bytes payload) except -1:
        cdef uint8_t prefix[5]
        if self.table is not None and self.connection.write_paused and self.connection.is_full():
            # The peer does not read, so this aborts the call with all its others.
            self.connection.close_slow()
        if (
            self.connection.is_v1 and PyBytes_GET_SIZE(payload) + 5 > self.connection.largest_message()
            and self.ending == ENDING_NONE
        ):
            return self.end_too_large(payload)
        if self.step(CALLEE_ON_ANSWER, ENDING_ANSWERED) != CALLEE_RESPOND:
            return False
        if self.options is not None:
            self.options.release()
        observe(&self.tally.answers, self.service.context.tick() - self.since)
        self.connection.send(prefix, write_response(prefix, self.id), payload)
        self.connection.on_answered()
        return True

    cdef int failed(self, str what, object error) except -1:
        return self.end_with(None, what, error)

    cdef int end_with(self, object end, str what, object error) except -1:
        if self.step(CALLEE_ON_FAIL, ENDING_FAILED) != CALLEE_LOG:
            return 0
        if end is None:
            self.report("call %d of method %r from %s %s", (self.id, self.name, self.connection.peer, what), error)
        elif not self.connection.is_v1:
            self.report(
                "call %d of method %r from %s %s, which " + _PROTOCOL_V0 + " cannot tell it",
                (self.id, self.name, self.connection.peer, what), error)
        if self.connection.is_v1:
            if end is None:
                end = RPCError(Code.INTERNAL, self.service.failure_text(error))
            self.use_options().error = end
            if self.options.outbox is not None:
                self.options.outbox.close()
        # No answer is possible any more, so the spawned work is of no use.
        if self.spawned:
            self.cancel_work()
        return 0

    cdef int break_off(self, int ending, object end) except -1:
        if self.state != CALLEE_WAITING and self.state != CALLEE_RUNNING:
            return 0
        self.use_options().error = end
        return self.abort(ending, False)

    cdef int send_end(self) except -1:
        """Send the end of a call that was not answered: its work has ended, or never began."""
        cdef CallOptions options = self.options
        cdef object error = None
        cdef int outcome = 0
        if options is not None:
            options.release()
            error = options.error
        if not self.began:
            outcome = 1
        elif self.completed:
            outcome = 2
        if error is None:
            error = ENDS[self.ending]
        self.connection.send_error(self.id, self.name, outcome, error)
        self.connection.on_answered()
        return 0

    cdef int mark_aborted(self, int ending) except -1:
        """Do the first half of an abort, after which nothing can answer the call. `abort` does the second."""
        # The inputs and the endings of aborts have the same order.
        cdef int action = self.step(CALLEE_ON_RESET + ending - ENDING_RESET, ending)
        if action >= CALLEE_WITHDRAW:
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
        if action == CALLEE_WITHDRAW or action == CALLEE_REFUSE:
            if self.options is not None:
                self.connection.reserved_bytes -= self.options.reserved
                self.options.release()
            try:
                # It leaves the queue first: to write may open the output, which starts what waits.
                self.connection.on_left_waiting(self)
            finally:
                if action == CALLEE_REFUSE:
                    self.send_end()
            return 0
        if self.options is not None:
            if self.options.inbox is not None:
                self.options.inbox.close(RPCError(Code.CANCELLED, "the call was aborted"))
            if self.options.outbox is not None:
                self.options.outbox.close()
        if self.is_protected() and not forced:
            return 0
        return self.cancel_work()

    cdef int finish(self) except -1:
        """Finish the call as far as possible when no work is left."""
        if self.ending == ENDING_NONE or self.timer is not None:
            try:
                if self.ending == ENDING_NONE:
                    self.failed("ended without an answer", None)
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
        if self.options is not None:
            self.connection.reserved_bytes -= self.options.reserved
            self.options.reserved = 0
            self.options.release()
        if self.state == CALLEE_STOPPING and self.step(CALLEE_ON_ENDED, self.ending) == CALLEE_SEND_END:
            self.send_end()
        if self.options is not None:
            # Its traceback refers to the frames of the handler, and these to the call.
            self.options.error = None
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
