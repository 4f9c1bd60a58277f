# Calls on the side that serves them: one object for each, from arrival to the end.

from libc.stdint cimport uint8_t

from sockrpc.peer.undo cimport UndoHooks
from sockrpc.peer.streaming cimport Streaming

cdef class Call(Streaming):
    cdef UndoHooks undo              # hooks registered by on_abort
    cdef uint8_t cancel_is_due       # it was given up together with many others, and its cancel waits for its turn

    cdef bint answer(self, bytes payload) except -1
    cdef bint end_too_large(self, bytes payload) except -1
    cdef int failed(self, str what, object error) except -1
    # The same with the error that the peer gets in v1.
    cdef int end_with(self, object end, str what, object error) except -1
    cdef int send_end(self) except -1
    cdef int complete(self) except -1
    # Takes one step in the table of its life and returns the action to perform.
    cdef int step(self, int input, int ending) except -1
    cdef int mark_aborted(self, int ending) except -1
    cdef int end(self) except -1
    cdef bint undo_is_due(self) noexcept
    cdef int run_hooks(self) except -1
