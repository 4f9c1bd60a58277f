# What the system knows of a connection's line beside its bytes.

from libc.stdint cimport int64_t

cdef enum LineState:
    LINE_IS_QUIET = 0
    LINE_HAS_BYTES = 1        # that were not read
    LINE_HAS_ENDED = 2        # the peer's FIN or RST has come, also behind bytes that were not read
    LINE_IS_UNKNOWN = 3       # this system does not tell

cdef LineState look_at_line(int descriptor) noexcept nogil
# What the system holds of a socket's output: of TCP, what the peer's system has not acknowledged; 0 where it
# does not tell.
cdef Py_ssize_t unacknowledged(int descriptor) noexcept nogil
# What the peer's system has acknowledged of TCP's bytes since the beginning; of macOS, what was sent at all.
# -1 where the system does not tell.
cdef int64_t acknowledged(int descriptor) noexcept nogil
