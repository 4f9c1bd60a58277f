# The hooks that undo the work of aborted calls.

from libc.stdint cimport uint32_t

from sockrpc.peer.service cimport Service

# The undo hooks of one call.
cdef class UndoHooks:
    cdef Service service
    cdef str method
    cdef uint32_t id
    cdef dict fields
    cdef list hooks                  # (callback, args), in order of registration
    cdef object variables            # the contextvars.Context that the hooks start from
    cdef bint running

    # Starts the task that runs the hooks; it is done already if none of them had to wait.
    cdef object start(self)
    # Returns False if hooks were registered after the last one had run and before the task had ended.
    cdef bint ended(self, object task) except -1
