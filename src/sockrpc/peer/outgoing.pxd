# What this end of a connection asks of the other.

from libc.stdint cimport uint8_t

from sockrpc._frames cimport Frame
from sockrpc.peer.states cimport Life
from sockrpc.peer.table cimport Entry, RequestTable
from sockrpc.websocket.liveness cimport WatchedConnection

# One call that waits for its answer. Whoever waits holds it.
cdef class OutgoingCall(Entry):
    cdef readonly object future      # of the payload
    cdef bytes name
    cdef bytes payload
    cdef uint8_t state               # a CallerState
    cdef OutgoingCall following      # in the queue of unsent requests

cdef class Caller(WatchedConnection):
    cdef const Life *life            # what a call does in each state, in this connection's protocol
    cdef RequestTable outgoing       # calls that wait for their answers, by their ids
    cdef OutgoingCall first_unsent
    cdef OutgoingCall last_unsent
    cdef dict subscriptions          # name -> list of Subscription, None before there was one
    cdef readonly object cause       # what the transport says was the end of it, an exception; None: nothing
    cdef Py_ssize_t forks            # how often this process had forked off another when it was made

    cpdef int check_place(self) except -1
    cdef int check_place_closely(self) except -1

    cdef int on_response(self, Frame *frame) except -1
    cdef bint deliver(self, Frame *frame) except -1
    cdef int step(self, OutgoingCall call, int input) except -1
    cdef int write_requests(self) except -1
    cdef int fail_all(self) except -1
