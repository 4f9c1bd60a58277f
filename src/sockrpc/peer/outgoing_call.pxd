# A call that this end makes at the other.

from libc.stdint cimport uint8_t

from sockrpc.peer.inbox cimport Inbox
from sockrpc.peer.outbox cimport Outbox
from sockrpc.peer.table cimport Entry

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
    cdef readonly Inbox inbox        # the items of a stream, otherwise None
    cdef readonly Outbox outbox      # takes the items that this end sends, otherwise None
    cdef object outcome_waiter       # future of `outcome_of`, None until it was called
    cdef OutgoingCall previous       # links of all calls in flight, in the order of their requests
    cdef OutgoingCall following

cdef object shown_outcome(int outcome)
