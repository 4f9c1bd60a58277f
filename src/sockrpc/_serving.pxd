# The server's end of one connection.

from libc.stdint cimport uint8_t, uint32_t

from sockrpc._frames cimport Frame
from sockrpc._service cimport Host, Procedure, ProcedureQueue

cdef class ServerConnection(Host):
    cdef bint is_attached            # counts in `service.attached`
    cdef ProcedureQueue waiting      # calls and notifications that may not start yet, in order of arrival
    cdef Py_ssize_t waiting_bytes    # of payload
    cdef Py_ssize_t active_count     # calls that have started and not ended: what max_in_flight limits
    cdef bint shut                   # on_connect has not finished
    cdef bint draining               # the server stops: no call starts
    cdef bint stopped                # the server has closed this connection because it stops
    cdef bint grace_over             # and what had not ended by itself was aborted
    cdef bint pumping
    cdef list aborting               # calls of a connection that has ended whose abort has its turn
    cdef list takers                 # futures of the socket form's iterators that wait, None if there are none

    cdef int on_request(self, Frame *frame) except -1
    cdef int on_reset(self, Frame *frame) except -1
    cdef int on_notify(self, Frame *frame) except -1
    cdef int arrive(self, Procedure procedure) except -1
    cdef int start(self, Procedure procedure) except -1
    cdef bint may_start(self, Procedure procedure) noexcept
    cdef Procedure next_waiting(self)
    cdef int pump(self) except -1
    cdef int check_waiting_room(self) except -1
    cdef int wake_takers(self) except -1
    cdef str decode_name(self, Frame *frame)
    cdef int forget_if_over(self) except -1
    cdef int hasten_opening(self) except -1
    cdef int abort_some(self) except -1
    cdef int close_if_drained(self) except -1
    cdef int close_for_stop(self) except -1
