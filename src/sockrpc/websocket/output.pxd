# The output of one connection.

from libc.stdint cimport int64_t, uint8_t, uint64_t

from sockrpc._settings cimport Settings
from sockrpc.websocket.loop cimport LoopContext, Member
from sockrpc.websocket.buffers cimport Buffer

cdef class Output(Member):
    cdef readonly object transport   # None before connection_made and after connection_lost
    cdef LoopContext context
    cdef Settings settings
    cdef bint masks
    cdef Buffer output               # frames not yet given to the transport
    cdef object compression          # sockrpc.websocket.deflate.Compression, None where none was agreed on
    cdef bint vectored               # the transport's writelines can be relied on
    cdef bint write_paused           # the transport holds more than output_high_bytes
    cdef Py_ssize_t buffered_bytes   # upper bound of what the transport still holds
    cdef uint64_t written_bytes      # given to the transport so far
    cdef bint fin_is_due             # `end_output` was called, and the transport still holds something

    # Appends one binary message; the transport gets it at the next flush.
    cdef int send(self, const uint8_t *prefix, Py_ssize_t prefix_size, bytes payload) except -1
    # The same, and never compressed.
    cdef int send_plain(self, const uint8_t *prefix, Py_ssize_t prefix_size, bytes payload) except -1
    # Appends one message, compressed if that was agreed on.
    cdef int send_message(self, uint8_t opcode, bytes message) except -1
    cdef int send_joined(self, const uint8_t *prefix, Py_ssize_t prefix_size, bytes payload) except -1
    cdef int send_control(self, uint8_t opcode, bytes payload) except -1
    cdef int send_large(self, bytes payload) except -1
    cdef int count_written(self, Py_ssize_t size) except -1
    cdef int give_to_transport(self, bytes data) except -1
    cdef bytes take_output(self)
    cdef Py_ssize_t unsent(self) except -1
    # Calls a method of the transport, which may be dead already; None then, and where there is no transport.
    cdef object call_transport(self, str method, tuple arguments=*)
    cdef int end_output(self) except -1   # by a FIN behind what was written; without one under TLS, which has none
    cdef int close_transport(self) except -1
    cdef int descriptor(self) except -2   # the file descriptor of the socket, or -1 if it is gone
    # Returns how many of `written_bytes` have left this host for good, as far as the system knows.
    cdef int64_t left_bytes(self) except? -1
    cdef int64_t moved_bytes(self, int64_t left) except? -1
    cdef int append_frame(self, bytes frame) except -1
