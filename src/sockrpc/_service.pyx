"""What the connections of one server share, and the queues that procedures wait in."""

cimport cython
from cpython.ref cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

import asyncio
import contextvars
import inspect
import logging
import types
from collections import deque

from sockrpc._keepalive cimport WatchedConnection
from sockrpc._debug cimport DEBUG, count_created, count_freed
from sockrpc._output cimport Settings
from sockrpc._dispatch cimport Entry
from sockrpc._loop cimport FAIR_SHARE, LoopContext
from sockrpc._names cimport NameTable
from sockrpc._statistics cimport Tally, add_outcomes, count_abort, shown
from sockrpc._variables cimport copy_variables, enter_variables, exit_variables

from sockrpc.ratelimited import RateLimitedLog

cdef object CoroutineType = types.CoroutineType


@cython.final
cdef class Handler:
    """What answers one name.

    Args:
        name: The method or the event.
        function: A function of one Call or Notification.
        timeout: Seconds after which the work is aborted, 0 for never.
        run_to_completion: Resets and losses do not abort the work.
        thread: The function runs in a worker thread.
    """

    def __cinit__(self, str name, function, *, double timeout=0.0, bint run_to_completion=False,
                  bint thread=False):
        if DEBUG:
            count_created(<PyObject *> self)
        self.name = name
        self.function = function
        self.timeout = timeout
        self.run_to_completion = run_to_completion
        if thread:
            self.kind = KIND_THREAD
        elif is_coroutine_function(function):
            self.kind = KIND_COROUTINE
        else:
            self.kind = KIND_INLINE

    def copy(self) -> Handler:
        """The same with counts of its own: each server has its own."""
        return Handler(
            self.name, self.function, timeout=self.timeout, run_to_completion=self.run_to_completion,
            thread=self.kind == KIND_THREAD)

    def __dealloc__(self):
        if DEBUG:
            count_freed(<PyObject *> self)


# In this process.
cdef uint64_t connections_made = 0


cdef bint is_coroutine(object result) except -1:
    # A decorated coroutine function does not look like one; what it returns does.
    if type(result) is CoroutineType:
        return True
    if result is None or type(result) is str:
        return False
    try:
        return asyncio.iscoroutine(result)
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException:
        # It raises when it is looked at, which `encode_payload` will say.
        return False


def is_coroutine_function(function: object) -> bool:
    """True for a coroutine function, also as the `__call__` of an object."""
    return inspect.iscoroutinefunction(function) or (
        callable(function) and inspect.iscoroutinefunction(type(function).__call__)
    )


@cython.final
cdef class Service:
    """What the connections of one server share.

    Args:
        settings: The limits.
        context: Of the loop that the server runs on.
        methods: Handlers of calls by name; None if the application takes procedures from a socket.
        events: Handlers of notifications by name; the same.
        threads: Where `thread=True` handlers run.
        make_socket: Makes the public object of a connection.
    """

    def __cinit__(self, Settings settings, LoopContext context, NameTable methods, NameTable events, *,
                  threads, make_socket):
        if DEBUG:
            count_created(<PyObject *> self)
        self.settings = settings
        self.context = context
        self.methods = methods
        self.events = events
        self.threads = threads
        self.make_socket = make_socket
        self.connections = set()
        self.working = set()
        self.tasks = set()
        self.log = logging.getLogger("sockrpc.server")
        self.variables = contextvars.copy_context()
        self.unknown = RateLimitedLog("methods that nobody registered")

    def __dealloc__(self):
        if DEBUG:
            count_freed(<PyObject *> self)

    def keep(self, task: asyncio.Task[object]) -> None:
        """Own a task until it has ended: the loop itself refers to tasks only weakly."""
        # In this order: what is in the set and is never told to leave it would hold up every stop.
        task.add_done_callback(self._forget_task)
        self.tasks.add(task)

    def _forget_task(self, task: asyncio.Task[object]) -> None:
        self.tasks.discard(task)
        self.check_idle()

    cdef int check_idle(self) except -1:
        if self.idle_waiter is not None and not self.working and not self.tasks:
            if not self.idle_waiter.done():
                self.idle_waiter.set_result(None)
        return 0

    def begin_stop(self) -> None:
        """From here on no call starts."""
        self.stopping = True

    def wait_idle(self) -> asyncio.Future[None]:
        """A future that is done when no connection, task or work is left."""
        if self.idle_waiter is None:
            self.idle_waiter = self.context.loop.create_future()
            self.check_idle()
        return asyncio.shield(self.idle_waiter)

    def find_running(self, task: object) -> object:
        """The call or notification whose handler runs right now; None if none of ours does.

        `task` is the running task. May be called from any thread: nothing here lets another one in.
        """
        cdef Host connection
        cdef Procedure procedure
        if self.context.starting != NULL:
            return <object> self.context.starting
        if task is None:
            return None
        for connection in self.working:
            for queue in (connection.active, connection.handling):
                procedure = None if queue is None else (<ProcedureQueue> queue).head
                while procedure is not None:
                    if procedure.owns(task):
                        return procedure
                    procedure = procedure.following
        return None

    def by_method(self) -> tuple[dict[str, object], object]:
        """What was counted of the calls of each method, and of all others."""
        cdef Handler handler
        cdef dict methods = {}
        for _, handler in () if self.methods is None else self.methods.kept:
            methods[handler.name] = shown(&handler.tally)
        return methods, shown(&self.others)

    def look(self, max_connections: int, max_calls: int) -> tuple[dict[str, object], list[object], bool]:
        """What is in flight, for people who look at it.

        Args:
            max_connections: Of those with most calls in flight, so many are told of.
            max_calls: So many calls are looked at.

        Returns:
            Of each method the number of the calls looked at and the age of the oldest, in seconds; the
            connections, with how many are in flight and the age of the oldest; whether all calls were
            looked at.
        """
        cdef Host connection
        cdef Procedure call
        cdef dict methods = {}
        cdef list connections = []
        cdef list loaded = []
        cdef bint complete = True
        cdef Py_ssize_t left = max_calls
        cdef double now = self.context.tick()
        cdef double oldest
        for connection in self.working:
            if connection.table.count:
                loaded.append((connection.table.count, connection.number, connection))
        loaded.sort(reverse=True)
        for count, _, connection in loaded:
            if count > left:
                complete = False
                continue
            left -= count
            oldest = 0.0
            for call in connection.table.entries():
                oldest = max(oldest, now - call.since)
                seen, age = methods.get(call.name, (0, 0.0))
                methods[call.name] = (seen + 1, max(<double> age, now - call.since))
            if len(connections) < max_connections:
                connections.append((connection, count, oldest))
        return methods, connections, complete

    def counters(self) -> dict[str, int]:
        """The counters since the server began."""
        cdef Tally total = self.others
        cdef Host connection
        cdef uint64_t received = 0
        cdef uint64_t sent = 0
        cdef Handler handler
        for _, handler in () if self.methods is None else self.methods.kept:
            add_outcomes(&total, &handler.tally)
        for connection in self.working:
            received += connection.read_bytes
            sent += connection.written_bytes
        return {
            "calls_started": self.calls_started,
            "calls_answered": total.answered,
            "calls_failed": total.failed,
            "calls_reset": total.reset,
            "calls_lost": total.lost,
            "calls_timed_out": total.timed_out,
            "calls_stopped": total.stopped,
            "connections_accepted": self.accepted,
            "slow_peers_closed": self.slow_peers_closed,
            "bytes_received": self.bytes_received + received,
            "bytes_sent": self.bytes_sent + sent,
            "notifications_started": self.notifications_started,
            "notifications_failed": self.notifications_failed,
            "notifications_dropped": self.notifications_dropped,
        }


cdef class Procedure(Entry):
    """What a peer sent: a Call or a Notification."""

    cdef int begin(self) except -1:
        raise NotImplementedError

    cdef int taken(self) except -1:
        raise NotImplementedError

    cdef int broke_off(self, object error) except -1:
        raise NotImplementedError

    cdef object start_task(self, object coroutine, object variables):
        enter_variables(variables)
        try:
            # The task copies them.
            return self.service.context.start_task(coroutine, True)
        finally:
            exit_variables(variables)  # pragma: no trace

    cdef bint owns(self, object task) except -1:
        raise NotImplementedError

    cdef int note_abort(self, str reason) except -1:
        self.since = self.connection.read_at if reason == "reset" else self.service.context.tick()
        return count_abort(self.tally, reason)

    cdef int report(self, str text, tuple args, object error) except -1:
        # A line takes longer than most handlers, and a thousand may fail in one iteration.
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
        """The server's end of the connection that it came over."""
        return self.connection.socket


@cython.final
cdef class ProcedureQueue:
    """First in, first out; and a reset takes from the middle."""

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
        # The queue may be the last that refers to it.
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


cdef class Host(WatchedConnection):
    """A connection as a procedure sees it."""

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

    cdef int on_unknown(self, uint32_t id, str method) except -1:
        self.service.calls_started += 1
        self.service.others.received += 1
        self.service.others.failed += 1
        more = self.service.unknown.admit(method)
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
        return 0

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
        # Most of it is for what cannot wait.
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
        return WatchedConnection.proceed(self)

    cdef object callback_context(self):
        # One for all of them, or each would keep a copy of the current one. Not of that: it may be a handler's,
        # and what starts in such a callback is not to see its variables.
        if self.callbacks is None:
            self.callbacks = self.context.variables.copy()
        return self.callbacks

    cdef object fresh_variables(self):
        return copy_variables(self.service.variables if self.variables is None else self.variables)

    def call_hook(self, hook, *args):
        """Call a hook of the application; handlers see what it sets in context variables."""
        variables = self.fresh_variables()
        result = variables.run(hook, *args)
        self.variables = variables
        return result

    def create_task(self, coroutine) -> asyncio.Task[object]:
        """A task for the application's work on this connection, which counts until it has ended.

        Its first step runs in a later iteration; the coroutine calls `keep_variables` if handlers are to see
        what it has set.
        """
        return self.tend(self.fresh_variables().run(self.context.create_task, coroutine))

    def start_task(self, coroutine) -> asyncio.Task[object]:
        """The same, but where the interpreter can, its first step has run when this returns."""
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
        """From here on handlers start from the context variables of the running task."""
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
    def peer(self) -> str:
        """The peer's address, for logs."""
        return repr(self.socket.remote_address)

    @property
    def log_fields(self) -> dict[str, object]:
        """What the records of a connection carry."""
        return {"connection_id": self.number, "remote_address": shown_address(self.socket.remote_address)}


def shown_address(address: object) -> str:
    """A peer's address in one word: HOST:PORT, or the path of its unix socket, which may be empty."""
    if type(address) is tuple:
        return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
    return "" if address is None else str(address)
