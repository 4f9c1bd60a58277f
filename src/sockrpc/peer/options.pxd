# A call of sockrpc.v1 has these beside its method and its payload.

from libc.stdint cimport uint8_t

from sockrpc.peer.inbox cimport Inbox
from sockrpc.peer.outbox cimport Outbox

# A plain Request has none of these, so it pays for none.
cdef class CallOptions:
    cdef uint8_t flags               # those of its Open
    cdef object metadata             # a Metadata
    cdef Inbox inbox                 # items of the caller, None if it sends none
    cdef Outbox outbox               # items for the caller, None if it takes none
    cdef Py_ssize_t reserved         # its part of `max_held_bytes`, beside its payload
    cdef object error                # the RPCError that is its end, None where its ending says enough
    cdef uint8_t items_taken         # the handler has asked for the iterator of its items

    cdef int release(self) except -1 # the call has ended
