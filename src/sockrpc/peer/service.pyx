"""State shared by the connections of one server: handlers, limits, counters. A client has one for itself."""

cimport cython
from cpython.ref cimport PyObject
from libc.stdint cimport uint64_t

import asyncio
import contextvars
import logging

from sockrpc._debug cimport DEBUG, count_created, count_freed
from sockrpc.peer.handler cimport Handler
from sockrpc.peer.names cimport NameTable
from sockrpc.peer.session cimport Session
from sockrpc.peer.tally cimport Tally, Traffic, add_endings, add_traffic, shown
from sockrpc.websocket.loop cimport LoopContext
from sockrpc._settings cimport Settings

from sockrpc.codes import CODES as _CODES
from sockrpc.codes import Outcome, outcome_of
from sockrpc.peer.rate_limited_log import RateLimitedLog
from sockrpc.peer.tally import ENDINGS as _ENDINGS

# The names of what is counted by ending.
cdef tuple COUNTERS = tuple([ending.counter for ending in _ENDINGS])


# Clients serve no names in this protocol version.
cdef NameTable NOTHING = NameTable()


@cython.final
cdef class Service:
    """The state shared by the connections of one server.

    Args:
        settings: The limits.
        context: The context of the loop that the server runs on.
        methods: Handlers of calls by name; None if the application takes procedures from a socket.
        events: Handlers of notifications by name; None likewise.
        threads: The threads that run `thread=True` handlers; a client has none.
        make_socket: Makes the public object of a server's connection; a client has none.
        make_remote: Makes the public object of the other end, for handlers.
        debug: Callers get the texts of exceptions that handlers did not mean for them.
    """

    def __cinit__(self, Settings settings, LoopContext context, NameTable methods=NOTHING,
                  NameTable events=NOTHING, *, threads=None, make_socket=None,
                  make_remote=None, bint debug=False):
        if DEBUG:
            count_created(<PyObject *> self)
        self.settings = settings
        self.context = context
        self.methods = methods
        self.events = events
        self.threads = threads
        self.make_socket = make_socket
        self.make_remote = make_remote
        self.debug = debug
        self.connections = set()
        self.working = set()
        self.tasks = set()
        self.log = logging.getLogger("sockrpc.server")
        self.variables = contextvars.copy_context()
        self.unknown = RateLimitedLog("methods that nobody registered")

    def __dealloc__(self):
        if DEBUG:
            count_freed(<PyObject *> self)

    cdef str failure_text(self, object error):
        if not self.debug or error is None:
            return "internal error"
        try:
            return f"{type(error).__name__}: {error}"
        except Exception:
            # The text is made by code of the error's own.
            return type(error).__name__

    cdef double credit_timeout(self, Handler handler):
        if handler is not None and handler.credit_timeout:
            return handler.credit_timeout
        return self.settings.limits.credit_timeout

    def keep(self, task: asyncio.Task[object]) -> None:
        """Own a task until it has ended: the loop itself refers to tasks only weakly."""
        # Add the callback first: a task left in the set would block every shutdown.
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
        """Start no calls from here on."""
        self.stopping = True

    def wait_idle(self) -> asyncio.Future[None]:
        """Return a future that is done when no connection, task or work is left."""
        if self.idle_waiter is None:
            self.idle_waiter = self.context.loop.create_future()
            self.check_idle()
        return asyncio.shield(self.idle_waiter)

    def by_method(self) -> tuple[dict[str, object], object]:
        """Return the counts for the calls of each method, and for all other calls."""
        cdef Handler handler
        cdef dict methods = {}
        for _, handler in () if self.methods is None else self.methods.kept:
            methods[handler.name] = shown(&handler.tally)
        return methods, shown(&self.others)

    def counters(self) -> dict[str, int]:
        """Return the counters since the server began."""
        cdef Tally total = self.others
        cdef Traffic traffic = self.traffic
        cdef Session connection
        cdef uint64_t received = 0
        cdef uint64_t sent = 0
        cdef Handler handler
        for _, handler in () if self.methods is None else self.methods.kept:
            add_endings(&total, &handler.tally)
        for connection in self.working:
            received += connection.read_bytes
            sent += connection.written_bytes
            add_traffic(&traffic, &connection.traffic)
        return {
            "calls_started": self.calls_started,
            **{name: total.ended[number] for number, name in enumerate(COUNTERS, 1)},
            "connections_accepted": self.accepted,
            "slow_peers_closed": self.slow_peers_closed,
            "bytes_received": self.bytes_received + received,
            "bytes_sent": self.bytes_sent + sent,
            "notifications_started": self.notifications_started,
            "notifications_failed": self.notifications_failed,
            "notifications_dropped": self.notifications_dropped,
            "items_received": traffic.items_received,
            "item_bytes_received": traffic.item_bytes_received,
            "items_sent": traffic.items_sent,
            "item_bytes_sent": traffic.item_bytes_sent,
            "outgoing_calls_started": traffic.calls_made,
            "outgoing_calls_answered": traffic.calls_answered,
            "frames_ignored": self.frames_ignored,
        }

    def errors(self) -> tuple[dict[Code | int, int], dict[Outcome, int]]:
        """Return the number of calls that ended with an Error, by code and by outcome."""
        cdef int number
        codes = {}
        for number in range(256):
            if self.ends_by_code[number] or number in _CODES:
                codes[_CODES.get(number, number)] = self.ends_by_code[number]
        return codes, {outcome_of(number): self.ends_by_outcome[number] for number in range(3)}
