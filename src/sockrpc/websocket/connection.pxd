# A connection, which joins a transport to the WebSocket level. Both roles are subclasses.

from libc.stdint cimport uint64_t

from sockrpc.websocket.input cimport Input

cdef class Connection(Input):
    cdef object handshake            # receives bytes while STATE_CONNECTING, then None
    cdef bint closes_tcp_first

    # Ending
    cdef bint ended                  # `end` has run, and everything above this class is released
    cdef bint ended_by_us
    cdef readonly bint was_given_up  # a sweep gave the connection up before anything else had ended it
    cdef bint refused                # in the opening handshake, before the request was read to its end
    cdef bint is_brief               # refused before the request came, so no progress extends the deadline
    cdef Py_ssize_t unread           # bytes of the request that may still come when `refused`
    cdef bint peer_is_wrong          # this end closed because the peer's bytes were wrong
    cdef readonly int close_code
    cdef readonly str close_reason
    cdef object lost_waiter          # future of `wait_lost`, None until the first call

    # Receiving
    cdef double read_at              # when the latest read arrived, by `clock`
    cdef uint64_t read_bytes
    cdef bint receiving_directly     # into the parser's tail, not the loop's buffer

    # Output
    cdef bytes pending_pong          # payload of the latest unanswered ping while write_paused
    cdef object drain_waiter         # future of `drained`, None until the first call

    # The methods of a role
    cdef int on_end(self) except -1          # once, when the connection has ended
    cdef int on_lost(self) except -1         # once, when the transport is gone
    cdef int on_slow(self) except -1         # the peer has not read for `stall_timeout` and is dropped
    cdef int on_output_open(self) except -1  # output is below the low-water mark again
    # It has ended, and may take all the time that its stop allows, although nothing moves.
    cdef bint has_grace(self) except -1

    cdef int ping(self, double now) except -1
    cdef int write_soon(self, bint alone) except -1
    cdef int start_close(self, int code, str reason) except -1
    cdef int drop(self, str reason) except -1
    cdef int end(self, bint by_us, int code, str reason) except -1
    cdef object error(self)
