# The frames that ask this end for work, or belong to work that it does for the other.

from cpython.ref cimport PyObject
from libc.stdint cimport uint32_t

from sockrpc._frames cimport Frame
from sockrpc.peer.call cimport Call
from sockrpc.peer.gate cimport Gate
from sockrpc.peer.options cimport CallOptions

cdef class Arrivals(Gate)

ctypedef int (*FrameHandler)(Arrivals, Frame *) except -1

cdef class Arrivals(Gate):
    cdef const FrameHandler *frames  # by opcode, in this connection's protocol
    cdef Py_ssize_t early_bytes
    cdef list early                  # notifications that came before the client's user could listen, or None
    cdef int receive_response(self, Frame *frame) except -1
    cdef int receive_error(self, Frame *frame) except -1
    cdef int receive_hello(self, Frame *frame) except -1
    cdef int receive_goaway(self, Frame *frame) except -1
    cdef int receive_ping(self, Frame *frame) except -1
    cdef int receive_pong(self, Frame *frame) except -1
    cdef int not_hello(self, Frame *frame) except -1
    cdef int begin_v1(self) except -1
    cdef int on_request(self, Frame *frame) except -1
    cdef int on_reset(self, Frame *frame) except -1
    cdef int on_open(self, Frame *frame) except -1
    cdef int on_item(self, Frame *frame) except -1
    cdef int on_items_end(self, Frame *frame) except -1
    cdef int on_credit(self, Frame *frame) except -1
    cdef int on_notify(self, Frame *frame) except -1
    cdef bint keep_early(self, Frame *frame) except -1
    cdef str decode_name(self, Frame *frame)
    cdef Call new_call(self, Frame *frame, PyObject *handler, str name)
    cdef object refusal(self, Frame *frame, int flags, PyObject *handler, object metadata)
    cdef CallOptions options_of(self, Frame *frame, object metadata)
    cdef int refuse_call(self, uint32_t id, PyObject *handler, str name, object error) except -1
