# The state shared by the connections of one server.

from cpython.ref cimport PyObject
from libc.stdint cimport uint64_t

from sockrpc.peer.handler cimport Handler
from sockrpc.peer.names cimport NameTable
from sockrpc.peer.tally cimport Tally, Traffic
from sockrpc.websocket.loop cimport LoopContext
from sockrpc._settings cimport Settings

cdef class Service:
    cdef Settings settings
    cdef readonly LoopContext context
    cdef NameTable methods         # a Handler by name; None in the socket form
    cdef NameTable events
    cdef readonly object threads           # sockrpc.peer.handler_threads.HandlerThreads
    cdef readonly object make_socket       # Connection -> sockrpc.Socket
    cdef readonly object make_remote       # (Connection, Call or None) -> sockrpc.Remote
    cdef readonly bint debug               # errors of handlers reach their callers with their texts
    cdef readonly set connections          # open ones
    cdef readonly set working              # connections that are open or have work that unwinds
    cdef readonly set tasks                # notification handlers, undo hooks, hooks of the application
    cdef readonly bint stopping
    cdef readonly uint64_t accepted        # transports of this server so far
    cdef readonly Py_ssize_t attached      # counted by max_connections: in the handshake, open, or with work left
    cdef object idle_waiter        # future of `wait_idle`
    cdef readonly object log
    cdef object variables            # the contextvars.Context that the server was made in
    cdef readonly object unknown   # rate limit for the log of calls of unregistered methods

    cdef uint64_t calls_started
    cdef Tally others              # calls of unregistered methods, and all calls in the socket form
    cdef uint64_t[256] ends_by_code  # v1: calls that were not answered
    cdef uint64_t[3] ends_by_outcome
    cdef uint64_t frames_ignored     # v1: opcodes of later versions
    cdef Traffic traffic             # over connections whose transports are gone
    cdef uint64_t slow_peers_closed
    cdef uint64_t bytes_received     # over connections whose transports are gone, like bytes_sent
    cdef uint64_t bytes_sent
    cdef uint64_t notifications_started
    cdef uint64_t notifications_failed
    cdef uint64_t notifications_dropped

    # Returns the tally of a handler, which may be NULL.
    cdef inline Tally *tally_of(self, PyObject *handler) noexcept:
        return &self.others if handler == NULL else &(<Handler> handler).tally

    cdef inline int count_end(self, int code, int outcome) noexcept:
        self.ends_by_code[code & 255] += 1
        self.ends_by_outcome[outcome] += 1
        return 0

    cdef str failure_text(self, object error)
    cdef double credit_timeout(self, Handler handler)
    cdef int check_idle(self) except -1
