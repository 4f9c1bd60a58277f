# The work that a peer asks for, the queues it waits in, and the connection as it sees it.

from libc.stdint cimport uint32_t, uint64_t

from sockrpc.peer.replies cimport Replies
from sockrpc.peer.service cimport Service
from sockrpc.peer.table cimport Entry, RequestTable
from sockrpc.peer.tally cimport Tally

# A node of the waiting or the active queue; the active queue keeps its work alive.
cdef class Procedure(Entry):
    cdef Host connection
    cdef Service service
    cdef double since                # time of the read that brought it; for an aborted call, the time of the abort
    cdef Tally *tally                # counters of its method; NULL for a notification
    cdef str name
    cdef readonly bytes payload
    cdef bint is_call
    cdef Procedure previous
    cdef Procedure following
    cdef ProcedureQueue queue        # the queue that holds it, None if there is none

    cdef int begin(self) except -1
    cdef int taken(self) except -1                # by the iterator of the socket form
    # Handles an exception from `begin`.
    cdef int interrupted(self, object error) except -1
    # Makes a task for the handler's coroutine, which runs in a copy of `variables`.
    cdef object start_task(self, object coroutine, object variables)
    # Logs an error of this procedure: a format, its arguments, the exception or None.
    cdef int report(self, str text, tuple args, object error) except -1
    cdef bint owns(self, object task) except -1   # it is one of the tasks that do its work

# A first-in-first-out queue from whose middle anything may be removed.
cdef class ProcedureQueue:
    cdef Procedure head
    cdef Procedure last
    cdef Py_ssize_t count

    cdef int push(self, Procedure procedure) except -1
    cdef int remove(self, Procedure procedure) except -1

# The connection as a procedure sees it.
cdef class Host(Replies):
    cdef RequestTable incoming       # calls of the peer by id
    cdef readonly Service service
    cdef readonly object socket      # sockrpc.Socket
    cdef readonly uint64_t number    # number of the connection, for logs; unique within a process
    cdef ProcedureQueue active       # calls with work that must be kept alive, None until there is one
    cdef ProcedureQueue handling     # notifications whose handlers have not ended, None until there is one
    cdef Py_ssize_t notifying        # notification handlers that have not ended
    cdef object variables            # the contextvars.Context that handlers start from; None means the service's
    cdef object deferred             # deque of (function, arguments) that wait for a turn, None until there is one
    cdef Py_ssize_t stopping_count   # v1: calls that are settled, and whose ends are not sent
    cdef Py_ssize_t reserved_bytes   # v1: what calls hold beside their payloads, windows for their items included
    cdef Py_ssize_t nested_count     # v1: nested calls that have started and not ended
    cdef Py_ssize_t tended           # tasks of hooks, and of the socket form, that have not ended

    # Sends the end of a call that was not answered; `error` is an RPCError.
    cdef int send_error(self, uint32_t id, str method, int outcome, object error) except -1
    cdef int log_end(self, uint32_t id, str method, int code, int outcome, bytes message) except -1
    cdef Py_ssize_t largest_message(self) noexcept
    cdef int on_unknown(self, uint32_t id, str method) except -1  # a call of an unregistered method
    cdef int attach(self) except -1                             # its transport is there
    cdef int keep_transferred(self) except -1                   # its transport is gone: count what it carried
    # These are made on demand because most connections are idle.
    cdef ProcedureQueue active_queue(self)
    cdef object tend(self, object task)
    # Calls it now while the connection's turn lasts, otherwise in a later turn, behind earlier deferred calls.
    cdef int in_turn_or_later(self, object function, tuple arguments) except -1
    cdef ProcedureQueue handling_queue(self)
    # Makes a context for one handler; it has only the variables that hooks of this connection have set.
    cdef object fresh_variables(self)
    cdef int on_answered(self) except -1                        # an answer was appended to the output
    cdef int on_left_waiting(self, Procedure procedure) except -1   # it was aborted before it started
    cdef int on_work_ended(self, Procedure procedure) except -1     # nothing is left of it
    # Performs everything that a start, an end, a withdrawal or a loss has made possible.
    cdef int advance(self) except -1
