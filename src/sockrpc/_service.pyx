"""What the connections of one server share, and the queues that procedures wait in."""

cimport cython
from cpython.ref cimport PyObject
from libc.stdint cimport uint64_t

import asyncio
import inspect
import logging

from sockrpc._keepalive cimport WatchedConnection
from sockrpc._debug cimport DEBUG, count_created, count_freed
from sockrpc._output cimport Settings
from sockrpc._dispatch cimport Entry
from sockrpc._loop cimport LoopContext
from sockrpc._names cimport NameTable


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

    def __dealloc__(self):
        if DEBUG:
            count_freed(<PyObject *> self)


cdef bint is_coroutine(object result) except -1:
    # A decorated coroutine function does not look like one; what it returns does.
    return type(result) is not bytes and type(result) is not str and asyncio.iscoroutine(result)


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
                procedure = (<ProcedureQueue> queue).head
                while procedure is not None:
                    if procedure.owns(task):
                        return procedure
                    procedure = procedure.following
        return None

    cdef int count_abort(self, str reason) except -1:
        if reason == "reset":
            self.calls_reset += 1
        elif reason == "lost":
            self.calls_lost += 1
        elif reason == "timeout":
            self.calls_timed_out += 1
        else:
            self.calls_stopped += 1
        return 0

    def counters(self) -> dict[str, int]:
        """The counters since the server began."""
        return {
            "calls_started": self.calls_started,
            "calls_answered": self.calls_answered,
            "calls_failed": self.calls_failed,
            "calls_reset": self.calls_reset,
            "calls_lost": self.calls_lost,
            "calls_timed_out": self.calls_timed_out,
            "calls_stopped": self.calls_stopped,
            "notifications_started": self.notifications_started,
            "notifications_failed": self.notifications_failed,
            "notifications_dropped": self.notifications_dropped,
        }


cdef class Procedure(Entry):
    """What a peer sent: a Call or a Notification."""

    cdef int begin(self) except -1:
        raise NotImplementedError

    cdef bint owns(self, object task) except -1:
        raise NotImplementedError

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

    cdef int on_answered(self) except -1:
        raise NotImplementedError

    cdef int on_left_waiting(self, Procedure procedure) except -1:
        raise NotImplementedError

    cdef int on_work_ended(self, Procedure procedure) except -1:
        raise NotImplementedError

    @property
    def peer(self) -> str:
        """The peer's address, for logs."""
        return repr(self.socket.remote_address)
