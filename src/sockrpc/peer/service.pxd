# What serves calls shares: the handlers, the state of one server, the queues of procedures.

from cpython.ref cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from sockrpc.websocket.liveness cimport WatchedConnection
from sockrpc.websocket.output cimport Settings
from sockrpc.peer.table cimport Entry, RequestTable
from sockrpc.websocket.loop cimport LoopContext
from sockrpc.peer.names cimport NameTable
from sockrpc.peer.tally cimport Tally

cdef enum Kind:
    KIND_INLINE = 0        # a plain function, called while the read is parsed
    KIND_COROUTINE = 1
    KIND_THREAD = 2        # a plain function, in a worker thread

cdef class Handler:
    cdef readonly str name
    cdef readonly object function
    cdef readonly int kind
    cdef readonly double timeout            # seconds, 0: none
    cdef readonly bint run_to_completion
    cdef Tally tally

cdef bint is_coroutine(object result) except -1

# What one server's connections share.
cdef class Service:
    cdef Settings settings
    cdef readonly LoopContext context
    cdef NameTable methods         # of Handler; None in the socket form
    cdef NameTable events
    cdef readonly object threads           # sockrpc.peer.threads.WorkerThreads
    cdef readonly object make_socket       # Connection -> sockrpc.Socket
    cdef readonly set connections          # open ones
    cdef readonly set working              # connections with anything left: open, or with work that unwinds
    cdef readonly set tasks                # notification handlers, undo hooks, hooks of the application
    cdef readonly bint stopping
    cdef readonly uint64_t accepted        # transports of this server so far
    cdef readonly Py_ssize_t attached      # what max_connections counts: in the handshake, open, or with work left
    cdef object idle_waiter        # future of `wait_idle`
    cdef readonly object log
    cdef object variables            # the contextvars.Context that the server was made in
    cdef readonly object unknown   # sockrpc.peer.rate_limited_log.RateLimitedLog of calls that nobody answers

    cdef uint64_t calls_started
    cdef Tally others              # calls of methods that nobody registered, and all in the socket form
    cdef uint64_t slow_peers_closed
    cdef uint64_t bytes_received     # over connections whose transports are gone; and
    cdef uint64_t bytes_sent
    cdef uint64_t notifications_started
    cdef uint64_t notifications_failed
    cdef uint64_t notifications_dropped

    # Of a handler, which may be NULL.
    cdef inline Tally *tally_of(self, PyObject *handler) noexcept:
        return &self.others if handler == NULL else &(<Handler> handler).tally

    cdef int check_idle(self) except -1

# A node of the queue that it is in: waiting, or active (with work that must be kept alive).
cdef class Procedure(Entry):
    cdef Host connection
    cdef Service service
    cdef double since                # when it was read; of an aborted call, when its abort began
    cdef Tally *tally                # of its method; NULL for a notification
    cdef str name
    cdef readonly bytes payload
    cdef bint is_call
    cdef Procedure previous
    cdef Procedure following
    cdef ProcedureQueue queue        # the queue it is in, None if it is in none

    cdef int begin(self) except -1
    cdef int taken(self) except -1                # by the iterator of the socket form
    # An exception came out of `begin`.
    cdef int broke_off(self, object error) except -1
    # A task for the handler's coroutine, which runs in a copy of `variables`.
    cdef object start_task(self, object coroutine, object variables)
    cdef int note_abort(self, str reason) except -1
    # Log an error of it: a format, its arguments, the exception or None.
    cdef int report(self, str text, tuple args, object error) except -1
    cdef bint owns(self, object task) except -1   # it is one of the tasks that do its work

# First in, first out, and anything may leave from the middle.
cdef class ProcedureQueue:
    cdef Procedure head
    cdef Procedure last
    cdef Py_ssize_t count

    cdef int push(self, Procedure procedure) except -1
    cdef int remove(self, Procedure procedure) except -1

# A connection as a procedure sees it.
cdef class Host(WatchedConnection):
    cdef RequestTable table          # calls in flight by request id
    cdef readonly Service service
    cdef readonly object socket      # sockrpc.Socket
    cdef readonly uint64_t number    # of the connection, for logs: no two in one process have the same
    cdef ProcedureQueue active       # calls with work that must be kept alive, None before there was one
    cdef ProcedureQueue handling     # notifications whose handlers have not ended, the same
    cdef Py_ssize_t notifying        # notification handlers that have not ended
    cdef object variables            # the contextvars.Context that handlers start from; None: the service's
    cdef object callbacks            # the context that tasks' callbacks run in, None until one is needed
    cdef object deferred             # deque of (function, arguments) that wait for a turn, None before there was one
    cdef Py_ssize_t tended           # tasks of hooks, and of the socket form, that have not ended

    cdef int on_unknown(self, uint32_t id, str method) except -1  # a call of what nobody registered
    cdef int attach(self) except -1                             # its transport is there
    cdef int keep_transferred(self) except -1                   # its transport is gone: count what it carried
    # Made on demand, as most connections are idle.
    cdef ProcedureQueue active_queue(self)
    cdef object tend(self, object task)
    # Call it: now while the connection's turn lasts, else in a later one, behind what was deferred before.
    cdef int in_turn_or_later(self, object function, tuple arguments) except -1
    cdef ProcedureQueue handling_queue(self)
    cdef object callback_context(self)
    # A context of its own for one handler: what hooks of this connection have set, and nothing else.
    cdef object fresh_variables(self)
    cdef int on_answered(self) except -1                        # an answer was appended to the output
    cdef int on_left_waiting(self, Procedure procedure) except -1   # it was aborted before it started
    cdef int on_work_ended(self, Procedure procedure) except -1     # nothing is left of it
    # Something was started, ended, withdrawn or lost: do what that makes possible.
    cdef int advance(self) except -1
