"""A call of `sockrpc.v1` may have options of its caller, and an end that says more than a result."""

cimport cython
from cpython.ref cimport PyObject

from sockrpc._debug cimport DEBUG, count_created, count_freed

from sockrpc.peer.metadata import NO_METADATA as _NO_METADATA


@cython.final
cdef class CallOptions:
    """Made for the calls that need it."""

    def __cinit__(self):
        if DEBUG:
            count_created(<PyObject *> self)
        self.metadata = _NO_METADATA

    def __dealloc__(self):
        if DEBUG:
            count_freed(<PyObject *> self)

    cdef int release(self) except -1:
        if self.inbox is not None:
            self.inbox.close(None)
            self.inbox.release()
        if self.outbox is not None:
            self.outbox.close()
        return 0
