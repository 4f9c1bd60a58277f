# What a peer has sent to be done, the queues it stands in, and the connection as it sees it.

from libc.stdint cimport uint32_t, uint64_t

from sockrpc.peer.outgoing cimport Caller
from sockrpc.peer.service cimport Service
from sockrpc.peer.table cimport Entry, RequestTable
from sockrpc.peer.tally cimport Tally

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
cdef class Host(Caller):
    cdef RequestTable incoming       # calls of the peer by their ids
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
