"""The work that a peer asks for, calls and notifications, and the queues they wait in."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

import asyncio
import contextvars
import logging
from collections import deque

from sockrpc._debug cimport DEBUG, count_created, count_freed
from sockrpc._frames cimport ERROR_PREFIX_BYTES, error_prefix
from sockrpc.peer.replies cimport Replies
from sockrpc.peer.session cimport text_within
from sockrpc.peer.table cimport Entry, RequestTable
from sockrpc.peer.tally cimport ENDING_FAILED, Traffic, add_traffic
from sockrpc.peer.variables cimport copy_variables, enter_variables, exit_variables
from sockrpc.websocket.loop cimport FAIR_SHARE

from sockrpc.codes import code_of, name_of, outcome_of
from sockrpc.errors import UsageError

cdef enum:
    INTERNAL = 13
    LONGEST_MESSAGE = 65_535         # it fits the field

cdef int DEBUG_LEVEL = logging.DEBUG

# Source of the connection numbers of this process.
cdef uint64_t connections_made = 0


cdef class Procedure(Entry):
    """Work that a peer asks for: a Call or a Notification."""

    cdef int begin(self) except -1:
        raise NotImplementedError

    cdef int taken(self) except -1:
        raise NotImplementedError

    cdef int interrupted(self, object error) except -1:
        raise NotImplementedError

    cdef object start_task(self, object coroutine, object variables):
        enter_variables(variables)
        try:
            # The task copies the context variables.
            return self.service.context.start_task(coroutine, True)
        finally:
            exit_variables(variables)  # pragma: no trace

    cdef bint owns(self, object task) except -1:
        raise NotImplementedError

    cdef int report(self, str text, tuple args, object error) except -1:
        # A log line takes longer than most handlers, and a thousand may fail in one iteration.
        return self.connection.in_turn_or_later(self._log_error, (text, args, error))

    def _log_error(self, text: str, args: tuple, error: BaseException | None) -> None:
        self.service.log.error(text, *args, exc_info=error, extra=self._log_fields)

    @property
    @cython.nonecheck(True)
    def _log_fields(self) -> dict[str, object]:
        fields = self.connection.log_fields
        if hasattr(self, "method"):
            return {**fields, "request_id": self.id, "method": self.name}
        return {**fields, "event": self.name}

    @property
    @cython.nonecheck(True)
    def text(self) -> str:
        """The payload as text.

        Raises:
            UnicodeDecodeError: The peer sent a payload that is not UTF-8.
        """
        return self.payload.decode()

    @property
    @cython.nonecheck(True)
    def socket(self):
        """The server's end of the connection that carried it."""
        return self.connection.socket


@cython.final
cdef class ProcedureQueue:
    """A first-in-first-out queue that resets may take from the middle."""

    def __cinit__(self):
        if DEBUG:
            count_created(<PyObject *> self)

    def __dealloc__(self):
        if DEBUG:
            count_freed(<PyObject *> self)

    cdef int push(self, Procedure procedure) except -1:
        assert procedure.queue is None
        procedure.queue = self
        procedure.previous = self.last
        if self.last is None:
            self.head = procedure
        else:
            self.last.following = procedure
        self.last = procedure
        self.count += 1
        return 0

    cdef int remove(self, Procedure procedure) except -1:
        cdef Procedure before = procedure.previous
        cdef Procedure after = procedure.following
        # The queue may hold the last reference.
        cdef Procedure kept = procedure
        assert kept.queue is self and self.count > 0
        if before is None:
            self.head = after
        else:
            before.following = after
        if after is None:
            self.last = before
        else:
            after.previous = before
        kept.previous = kept.following = None
        kept.queue = None
        self.count -= 1
        return 0


cdef class Host(Replies):
    """The connection as a procedure sees it."""

    def __cinit__(self, *args, **kwargs):
        global connections_made
        connections_made += 1
        self.number = connections_made

    cdef int on_slow(self) except -1:
        self.service.slow_peers_closed += 1
        return 0

    def close_slow(self) -> None:
        """Close the connection of a peer that reads too slowly."""
        if not self.ended:
            self.on_slow()
            self.start_close(1013, "too slow")

    cdef Py_ssize_t largest_message(self) noexcept:
        return min(self.their_message_bytes, self.settings.limits.max_message_bytes)

    cdef int send_error(self, uint32_t id, str method, int outcome, object error) except -1:
        cdef uint8_t code = INTERNAL
        cdef bytes message = b"internal error"
        cdef bytes details = b""
        cdef bytes prefix
        cdef Py_ssize_t room = self.largest_message() - ERROR_PREFIX_BYTES
        if self.ended:
            return 0
        # A peer may ask for nothing but refusals, so it takes its turns like one whose calls run.
        self.ran_handler = True
        if self.write_paused and self.is_full():
            self.close_slow()
            return 0
        try:
            text, details = text_within(error.message, LONGEST_MESSAGE), error.details or b""
            code = error.code
            message = text
        except (AttributeError, TypeError, OverflowError):
            # The application has set these to something else, and the call has to end.
            details = b""
        if PyBytes_GET_SIZE(details) > room:
            message += b" (%d bytes of details do not fit in %d)" % (len(details), room)
            details = b""
        if PyBytes_GET_SIZE(message) > min(room - PyBytes_GET_SIZE(details), LONGEST_MESSAGE):
            message = text_within(message.decode(), min(room - PyBytes_GET_SIZE(details), LONGEST_MESSAGE))
        self.service.count_end(code, outcome)
        self.log_end(id, method, code, outcome, message)
        prefix = error_prefix(id, code, <uint8_t> outcome, message)
        self.send(<const uint8_t *> PyBytes_AS_STRING(prefix), PyBytes_GET_SIZE(prefix), details)
        if not self.in_feed:
            self.write_soon(False)
        return 0

    cdef int log_end(self, uint32_t id, str method, int code, int outcome, bytes message) except -1:
        # A handler that refuses has not failed, and peers can make it refuse as often as they want.
        if self.service.log.isEnabledFor(DEBUG_LEVEL):
            fields = {"code": name_of(code_of(code)), "outcome": name_of(outcome_of(outcome))}
            self.service.log.debug(
                "call %d of method %r from %s ended with %s, %s: %r", id, method, self.peer, fields["code"],
                fields["outcome"].replace("_", " "), message.decode(),
                extra={**self.log_fields, "request_id": id, "method": method, **fields})
        return 0

    def remote(self, call):
        """Return the other end as a handler of a call sees it, to call it."""
        if self.service.make_remote is None:
            raise UsageError("this connection makes no calls")
        return self.service.make_remote(self, call)

    cdef int on_unknown(self, uint32_t id, str method) except -1:
        self.service.calls_started += 1
        self.service.others.received += 1
        self.service.others.ended[<int> ENDING_FAILED] += 1
        # A client without an app serves nothing, and its caller hears that.
        more = None if self.service.threads is None else self.service.unknown.allow(method)
        if more is not None:
            self.service.log.warning(
                "call %d from %s failed: nobody registered method %r%s", id, self.peer, method, more,
                extra={**self.log_fields, "request_id": id, "method": method})
        return 0

    cdef int attach(self) except -1:
        self.service.accepted += 1
        self.service.attached += 1
        self.service.working.add(self)
        return 0

    cdef int keep_transferred(self) except -1:
        self.service.bytes_received += self.read_bytes
        self.service.bytes_sent += self.written_bytes
        self.read_bytes = self.written_bytes = 0
        add_traffic(&self.service.traffic, &self.traffic)
        memset(&self.traffic, 0, sizeof(Traffic))
        return 0

    @property
    def outgoing_load(self) -> tuple[int, int, int]:
        """Number of calls made at the peer that have not ended, of those not sent yet, and of items without credit."""
        return self.outgoing.count, self.unsent_count, self.items_blocked

    cdef ProcedureQueue active_queue(self):
        if self.active is None:
            self.active = ProcedureQueue()
        return self.active

    cdef ProcedureQueue handling_queue(self):
        if self.handling is None:
            self.handling = ProcedureQueue()
        return self.handling

    cdef int in_turn_or_later(self, object function, tuple arguments) except -1:
        self.context.begin_turn(self)
        # Most of the turn is reserved for work that cannot wait.
        if not self.deferred and self.context.tick() < self.turn_until - FAIR_SHARE * 9 / 10:
            function(*arguments)
            return 0
        if self.deferred is None:
            self.deferred = deque()
        self.deferred.append((function, arguments))
        return self.context.postpone(self)

    cdef int proceed(self) except -1:
        self.context.begin_turn(self)
        while self.deferred:
            function, arguments = self.deferred.popleft()
            try:
                function(*arguments)
            except Exception as error:  # pragma: no memory
                self.context.report(error)  # pragma: no memory
            if self.context.tick() >= self.turn_until:
                break
        if self.deferred:
            self.context.postpone(self)
        return Replies.proceed(self)

    cdef object fresh_variables(self):
        return copy_variables(self.service.variables if self.variables is None else self.variables)

    def call_hook(self, hook, *args):
        """Call a hook of the application; handlers see what it sets in context variables."""
        variables = self.fresh_variables()
        result = variables.run(hook, *args)
        self.variables = variables
        return result

    def create_task(self, coroutine) -> asyncio.Task[object]:
        """Make a task for the application's work on this connection; the connection counts it until it ends.

        Its first step runs in a later iteration; the coroutine calls `keep_variables` to make its context
        variables visible to handlers.
        """
        return self.tend(self.fresh_variables().run(self.context.create_task, coroutine))

    def start_task(self, coroutine) -> asyncio.Task[object]:
        """Do the same, but where the interpreter can, run the first step before this returns."""
        task = self.fresh_variables().run(self.context.start, coroutine)
        return task if task.done() else self.tend(task)

    cdef object tend(self, object task):
        task.add_done_callback(self._tended)
        self.tended += 1
        self.service.keep(task)
        return task

    def _tended(self, task: asyncio.Task[object]) -> None:
        self.tended -= 1
        self.advance()

    def keep_variables(self) -> None:
        """Make later handlers start from the context variables of the running task."""
        self.variables = contextvars.copy_context()

    cdef int on_answered(self) except -1:
        raise NotImplementedError

    cdef int advance(self) except -1:
        raise NotImplementedError

    cdef int on_left_waiting(self, Procedure procedure) except -1:
        raise NotImplementedError

    cdef int on_work_ended(self, Procedure procedure) except -1:
        raise NotImplementedError

    @property
    def remote_address(self) -> object:
        """The peer's address; None once the transport is gone, unless there is a socket that has kept it."""
        return self.extra_info("peername") if self.socket is None else self.socket.remote_address

    @property
    def peer(self) -> str:
        """The peer's address, for logs."""
        return repr(self.remote_address)

    @property
    def log_fields(self) -> dict[str, object]:
        """The fields of the connection's log records."""
        return {"connection_id": self.number, "remote_address": shown_address(self.remote_address)}


def shown_address(address: object) -> str:
    """Return a peer's address in one word: HOST:PORT, or the path of its unix socket, which may be empty."""
    if type(address) is tuple:
        return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
    return "" if address is None else str(address)
