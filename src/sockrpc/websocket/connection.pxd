# A connection, which joins a transport to the WebSocket level. Both roles are subclasses.

from libc.stdint cimport int64_t, uint8_t, uint64_t

from sockrpc.websocket.output cimport Output
from sockrpc.websocket.parser cimport Parser

cdef enum State:
    STATE_CONNECTING = 0     # the opening handshake is under way
    STATE_OPEN = 1
    STATE_CLOSING = 2        # ended for all code above; the transport is still to be closed
    STATE_CLOSED = 3         # the transport is gone

cdef class Connection(Output):
    cdef Parser parser
    cdef object handshake            # receives bytes while STATE_CONNECTING, then None
    cdef State state
    cdef bint closes_tcp_first

    # Ending
    cdef bint ended                  # `end` has run, and everything above this class is released
    cdef bint ended_by_us
    cdef bint refused                # in the opening handshake, before the request was read to its end
    cdef bint is_brief               # refused before the request came, so no progress extends the deadline
    cdef Py_ssize_t unread           # bytes of the request that may still come when `refused`
    cdef bint peer_is_wrong          # this end closed because the peer's bytes were wrong
    cdef readonly int close_code
    cdef readonly str close_reason
    cdef object lost_waiter          # future of `wait_lost`, None until the first call
    cdef double deadline             # loop time at which the transport is aborted; 0: none

    # Input
    cdef double read_at              # when the latest read arrived, by `clock`
    cdef uint64_t read_bytes
    cdef bint in_feed                # the parser's window is being worked through
    cdef bint reading_held           # `transport.pause_reading` was called
    cdef bint looked_at              # the paused reading was looked at once since then
    cdef bint parsing_stopped        # by a full waiting queue
    cdef bint yielded                # by fairness: `proceed` goes on with the parser's tail
    cdef bint ran_handler            # since the clock was last looked at
    cdef bint receiving_directly     # into the parser's tail, not the loop's buffer
    cdef int full_reads              # consecutive full reads: the peer sends faster than it is served

    # Output
    cdef bytes pending_pong          # payload of the latest unanswered ping while write_paused
    cdef object drain_waiter         # future of `drained`, None until the first call

    # Keepalive and stalls (loop time)
    cdef bint heard                  # a byte was received since the last sweep
    cdef readonly bint was_given_up  # a sweep gave the connection up before anything else had ended it
    cdef bint overdue                # the last sweep found a verdict; the next one executes it
    cdef bint awaiting_pong
    cdef double last_heard
    cdef double pinged_at            # when the ping was sent, or when the output before it last moved
    cdef int64_t ping_position       # position of its end in `written_bytes`; 0 if no output stood before it
    cdef double output_stalled_since
    cdef double reading_stalled_since
    cdef int64_t left_mark           # at the last sweep: bytes that had left this host; -1: unknown
    cdef int64_t moved_mark          # at the last sweep: a number that changes when bytes leave this host
    cdef uint64_t started_mark       # at the last sweep: the value of `left_queue`
    cdef uint64_t left_queue         # procedures that have left the waiting queue

    # The methods of a role
    cdef int on_message(self, const uint8_t *data, Py_ssize_t size) except -1   # a binary message
    cdef int on_text(self, const uint8_t *data, Py_ssize_t size) except -1      # a text message, checked to be UTF-8
    # A binary message that comes too late; its first byte, if there is one, is unmasked.
    cdef int on_ignored(self, const uint8_t *data, Py_ssize_t size) except -1
    cdef int on_end(self) except -1          # once, when the connection has ended
    cdef int on_lost(self) except -1         # once, when the transport is gone
    cdef int on_slow(self) except -1         # the peer has not read for `stall_timeout` and is dropped
    cdef int on_output_open(self) except -1  # output is below the low-water mark again

    cdef int feed(self) except -1
    cdef int handle_event(self, int event) except -1
    cdef int decompress(self, bint is_text) except -1
    cdef int handle_isolated(self) except -1
    cdef int settle_reading(self) except -1
    cdef int hold_reading(self, bint hold) except -1
    cdef int restart_parsing(self) except -1
    cdef int write_soon(self, bint alone) except -1
    cdef int send_pong(self, bytes payload) except -1
    cdef int start_close(self, int code, str reason) except -1
    cdef int fail(self, int code, str reason) except -1
    cdef int drop(self, str reason) except -1
    cdef int end(self, bint by_us, int code, str reason) except -1
    cdef int answer_close(self) except -1
    cdef int close_transport(self) except -1
    cdef object error(self)
