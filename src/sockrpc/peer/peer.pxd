# A connection with RPC, in either role.

from sockrpc._frames cimport Frame
from sockrpc.peer.gate cimport Gate

cdef struct Role

cdef class PeerBase(Gate):
    cdef Role *role
    cdef bint stopped                # the server has closed this connection because it stops
    cdef list aborting               # calls of an ended connection that wait for their turn to be aborted

    cdef int on_request(self, Frame *frame) except -1
    cdef int on_reset(self, Frame *frame) except -1
    cdef int on_notify(self, Frame *frame) except -1
    cdef int receive_response(self, Frame *frame) except -1
    cdef str decode_name(self, Frame *frame)
    cdef int hasten_opening(self) except -1
    cdef int abort_some(self) except -1
    cdef int abort_in_turns(self, list calls) except -1
