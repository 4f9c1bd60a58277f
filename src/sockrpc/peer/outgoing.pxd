# Calls and subscriptions that this end of a connection makes at the other.

from libc.stdint cimport int64_t, uint8_t

from sockrpc._frames cimport Frame
from sockrpc.peer.inbox cimport Inbox
from sockrpc.peer.outbox cimport Outbox
from sockrpc.peer.session cimport Session
from sockrpc.peer.table cimport Entry, RequestTable

cdef enum:
    OUTCOME_UNKNOWN = 255            # beside those that travel (sockrpc.codes)

# A call that waits for its answer. The connection holds it; otherwise nothing would hold a task that waits in it.
cdef class OutgoingCall(Entry):
    cdef readonly object future      # gets the payload of the answer
    cdef bytes name
    cdef bytes payload
    cdef bytes metadata              # None for none
    cdef uint8_t state               # a CallerState
    cdef uint8_t flags               # those of its Open
    cdef uint8_t outcome
    cdef uint8_t counts              # against the peer's max calls
    cdef double seconds              # its time-out, 0.0: none
    cdef double when                 # loop time of the end of that
    cdef object timer
    cdef readonly Inbox inbox        # of a stream, otherwise None
    cdef readonly Outbox outbox      # where this end sends items, otherwise None
    cdef object outcome_waiter       # future of `outcome_of`, None until it was called
    cdef OutgoingCall previous       # links of all calls in flight, in the order of their requests
    cdef OutgoingCall following

cdef class Caller(Session):
    cdef RequestTable outgoing       # calls that wait for their answers, by their ids
    cdef OutgoingCall first          # the first of all calls in the table
    cdef OutgoingCall last
    cdef OutgoingCall first_unsent   # from here on no request is written
    cdef Py_ssize_t unsent_count     # an upper bound: calls whose requests are not written
    cdef Py_ssize_t open_count       # v1: calls that count against the peer's max calls
    cdef dict subscriptions          # name -> list of Subscription, None until the first one
    cdef readonly object cause       # the exception that the transport gave as its end; None if it gave none
    cdef Py_ssize_t forks            # value of `forks` when this connection was made

    cpdef int check_place(self) except -1
    cdef int check_place_closely(self) except -1

    cdef int on_response(self, Frame *frame) except -1
    cdef int on_error_frame(self, Frame *frame) except -1
    cdef int on_item_for_us(self, Frame *frame) except -1
    cdef int on_credit_for_us(self, Frame *frame) except -1
    cdef bint deliver(self, Frame *frame) except -1
    cdef int step(self, OutgoingCall call, int input) except -1
    cdef int enter(self, OutgoingCall call) except -1
    cdef int leave_table(self, OutgoingCall call) except -1
    cdef int write(self, OutgoingCall call) except -1
    cdef int write_requests(self) except -1
    cdef int settle(self, OutgoingCall call, int outcome, object payload, object error) except -1
    cdef int give_up(self, OutgoingCall call, object error) except -1
    cdef int send_reset(self, OutgoingCall call) except -1
    cdef int fail_all(self) except -1
    cdef int refuse_unsent(self) except -1
