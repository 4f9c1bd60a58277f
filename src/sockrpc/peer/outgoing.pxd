# Calls and subscriptions that this end of a connection makes at the other.

from libc.stdint cimport uint8_t

from sockrpc._frames cimport Frame
from sockrpc.peer.states cimport Life
from sockrpc.peer.table cimport Entry, RequestTable
from sockrpc.websocket.connection cimport Connection

# A call that waits for its answer. The connection holds it; otherwise nothing would hold a task that waits in it.
cdef class OutgoingCall(Entry):
    cdef readonly object future      # gets the payload of the answer
    cdef bytes name
    cdef bytes payload
    cdef uint8_t state               # a CallerState
    cdef OutgoingCall previous       # links of all calls in flight, in the order of their requests
    cdef OutgoingCall following

cdef class Caller(Connection):
    cdef const Life *life            # the table of a call's life in this connection's protocol
    cdef RequestTable outgoing       # calls that wait for their answers, by their ids
    cdef OutgoingCall first          # the first of all calls in the table
    cdef OutgoingCall last
    cdef OutgoingCall first_unsent   # from here on no request is written
    cdef dict subscriptions          # name -> list of Subscription, None until the first one
    cdef readonly object cause       # the exception that the transport gave as its end; None if it gave none
    cdef Py_ssize_t forks            # value of `forks` when this connection was made

    cpdef int check_place(self) except -1
    cdef int check_place_closely(self) except -1

    cdef int on_response(self, Frame *frame) except -1
    cdef bint deliver(self, Frame *frame) except -1
    cdef int step(self, OutgoingCall call, int input) except -1
    cdef int enter(self, OutgoingCall call) except -1
    cdef int leave_table(self, OutgoingCall call) noexcept
    cdef int write_requests(self) except -1
    cdef int fail_all(self) except -1
