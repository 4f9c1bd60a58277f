# A connection with RPC, in either role.

from sockrpc.peer.arrivals cimport Arrivals

cdef struct Role

cdef class PeerBase(Arrivals):
    cdef Role *role
    cdef readonly object hello       # metadata of the peer's Hello
    cdef bint stopped                # the server has closed this connection because it stops
    cdef list aborting               # calls of an ended connection that wait for their turn to be aborted

    cdef int hasten_opening(self) except -1
    cdef int abort_some(self) except -1
    cdef int abort_in_turns(self, list calls) except -1
