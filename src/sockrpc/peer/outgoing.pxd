# What this end of a connection asks of the other.

from libc.stdint cimport uint8_t

from sockrpc._frames cimport Frame
from sockrpc.peer.states cimport Life
from sockrpc.peer.table cimport Entry, RequestTable
from sockrpc.websocket.liveness cimport WatchedConnection

# One call that waits for its answer. Its connection holds it, or nothing would hold a task that waits in it.
cdef class OutgoingCall(Entry):
    cdef readonly object future      # of the payload
    cdef bytes name
    cdef bytes payload
    cdef uint8_t state               # a CallerState
    cdef OutgoingCall previous       # of those in flight, in the order of their requests
    cdef OutgoingCall following

cdef class Caller(WatchedConnection):
    cdef const Life *life            # what a call does in each state, in this connection's protocol
    cdef RequestTable outgoing       # calls that wait for their answers, by their ids
    cdef OutgoingCall first          # of those in flight: all that are in the table
    cdef OutgoingCall last
    cdef OutgoingCall first_unsent   # of those in flight, from here on none is written
    cdef dict subscriptions          # name -> list of Subscription, None before there was one
    cdef readonly object cause       # what the transport says was the end of it, an exception; None: nothing
    cdef Py_ssize_t forks            # how often this process had forked off another when it was made

    cpdef int check_place(self) except -1
    cdef int check_place_closely(self) except -1

    cdef int on_response(self, Frame *frame) except -1
    cdef bint deliver(self, Frame *frame) except -1
    cdef int step(self, OutgoingCall call, int input) except -1
    cdef int enter(self, OutgoingCall call) except -1
    cdef int leave_table(self, OutgoingCall call) noexcept
    cdef int write_requests(self) except -1
    cdef int fail_all(self) except -1
