# Work beside a handler.

from libc.stdint cimport uint8_t

from sockrpc.peer.work cimport Work

cdef class Spawning(Work):
    cdef object reset_waiter         # future of wait_reset
    cdef uint8_t used                # respond or spawn_and_abort_on_reset was used, so returning None is no answer

    cdef bint take_back_cancel(self, int before) except -1
