# Calls that this end of a connection makes at the other.

from sockrpc.peer.alarms cimport Alarms
from sockrpc.peer.outgoing_call cimport OutgoingCall
from sockrpc.peer.table cimport RequestTable

cdef class Caller(Alarms):
    cdef RequestTable outgoing       # calls that wait for their answers, by their ids
    cdef OutgoingCall first          # the first of all calls in the table
    cdef OutgoingCall last
    cdef OutgoingCall first_unsent   # from here on no request is written
    cdef Py_ssize_t unsent_count     # an upper bound: calls whose requests are not written
    cdef Py_ssize_t open_count       # v1: calls that count against the peer's max calls
    cdef readonly object cause       # the exception that the transport gave as its end; None if it gave none
    cdef Py_ssize_t forks            # value of `forks` when this connection was made

    cpdef int check_place(self) except -1
    cdef int check_place_closely(self) except -1

    cdef int step(self, OutgoingCall call, int input) except -1
    cdef int enter(self, OutgoingCall call) except -1
    cdef int leave_table(self, OutgoingCall call) except -1
    cdef int write(self, OutgoingCall call) except -1
    cdef int write_requests(self) except -1
    cdef int expire(self, OutgoingCall call) except -1
    cdef int give_up(self, OutgoingCall call, object error) except -1
    cdef int send_reset(self, OutgoingCall call) except -1
