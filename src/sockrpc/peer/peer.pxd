# A connection with RPC, in either role.

from cpython.ref cimport PyObject
from libc.stdint cimport uint32_t

from sockrpc._frames cimport Frame
from sockrpc.peer.call cimport Call
from sockrpc.peer.options cimport CallOptions
from sockrpc.peer.gate cimport Gate

cdef struct Role

cdef class PeerBase(Gate)

ctypedef int (*FrameHandler)(PeerBase, Frame *) except -1

cdef class PeerBase(Gate):
    cdef Role *role
    cdef const FrameHandler *frames  # by opcode, in this connection's protocol
    cdef readonly object hello       # metadata of the peer's Hello
    cdef list early                  # notifications that came before the client's user could listen, or None
    cdef Py_ssize_t early_bytes
    cdef bint stopped                # the server has closed this connection because it stops
    cdef list aborting               # calls of an ended connection that wait for their turn to be aborted

    cdef int on_request(self, Frame *frame) except -1
    cdef int on_reset(self, Frame *frame) except -1
    cdef bint keep_early(self, Frame *frame) except -1
    cdef int on_notify(self, Frame *frame) except -1
    cdef int receive_response(self, Frame *frame) except -1
    cdef int on_open(self, Frame *frame) except -1
    cdef int on_item(self, Frame *frame) except -1
    cdef int on_items_end(self, Frame *frame) except -1
    cdef int on_credit(self, Frame *frame) except -1
    cdef int receive_error(self, Frame *frame) except -1
    cdef int receive_hello(self, Frame *frame) except -1
    cdef int receive_goaway(self, Frame *frame) except -1
    cdef int receive_ping(self, Frame *frame) except -1
    cdef int receive_pong(self, Frame *frame) except -1
    cdef int not_hello(self, Frame *frame) except -1
    cdef Call new_call(self, Frame *frame, PyObject *handler, str name)
    cdef object refusal(self, Frame *frame, int flags, PyObject *handler)
    cdef CallOptions options_of(self, Frame *frame, object metadata)
    cdef int refuse_call(self, uint32_t id, PyObject *handler, object error) except -1
    cdef str decode_name(self, Frame *frame)
    cdef int hasten_opening(self) except -1
    cdef int abort_some(self) except -1
    cdef int abort_in_turns(self, list calls) except -1
