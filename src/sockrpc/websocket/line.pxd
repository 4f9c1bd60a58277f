# Facts that the system knows about a connection's socket, beside its bytes.

from libc.stdint cimport int64_t

cdef enum LineState:
    LINE_IS_QUIET = 0
    LINE_HAS_BYTES = 1        # that were not read
    LINE_HAS_ENDED = 2        # the peer's FIN or RST has come, also behind bytes that were not read
    LINE_IS_UNKNOWN = 3       # this system does not tell

cdef LineState look_at_line(int descriptor) noexcept nogil
# Bytes of output that the system still holds: for TCP, those that the peer's system has not acknowledged; 0 if it
# does not tell.
cdef Py_ssize_t unacknowledged(int descriptor) noexcept nogil
# TCP bytes that the peer's system has acknowledged since the beginning; on macOS, all that were sent.
# -1 if the system does not tell.
cdef int64_t acknowledged(int descriptor) noexcept nogil
