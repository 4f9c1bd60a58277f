# Calls on the side that serves them: one object for each, from arrival to the end.

from libc.stdint cimport uint8_t

from sockrpc.peer.options cimport CallOptions
from sockrpc.peer.outbox cimport Outbox
from sockrpc.peer.undo cimport UndoHooks
from sockrpc.peer.work cimport Work

cdef class Call(Work):
    cdef UndoHooks undo              # hooks registered by on_abort
    cdef object reset_waiter         # future of wait_reset
    cdef uint8_t used                # respond or spawn_and_abort_on_reset was used, so returning None is no answer
    cdef uint8_t cancel_is_due       # it was given up together with many others, and its cancel waits for its turn

    cdef bint answer(self, bytes payload) except -1
    cdef int failed(self, str what, object error) except -1
    # The same with the error that the peer gets in v1.
    cdef int end_with(self, object end, str what, object error) except -1
    cdef CallOptions use_options(self)
    cdef int send_end(self) except -1
    cdef int arm_deadline(self) except -1
    # The peer broke a rule of this very call.
    cdef int break_off(self, object end) except -1
    cdef int complete(self) except -1
    cdef Outbox stream_out(self)
    # Takes one step in the table of its life and returns the action to perform.
    cdef int step(self, int input, int ending) except -1
    cdef int mark_aborted(self, int ending) except -1
    cdef int end(self) except -1
    cdef bint undo_is_due(self) noexcept
    cdef int run_hooks(self) except -1
    cdef bint take_back_cancel(self, int before) except -1
