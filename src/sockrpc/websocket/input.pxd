# The input of one connection.

from libc.stdint cimport uint8_t, uint64_t

from sockrpc.websocket.liveness cimport Liveness
from sockrpc.websocket.output cimport Output
from sockrpc.websocket.parser cimport Parser

cdef enum State:
    STATE_CONNECTING = 0     # the opening handshake is under way
    STATE_OPEN = 1
    STATE_CLOSING = 2        # ended for all code above; the transport is still to be closed
    STATE_CLOSED = 3         # the transport is gone

cdef class Input(Output):
    cdef Parser parser
    cdef State state
    cdef bint in_feed                # the parser's window is being worked through
    cdef bint reading_held           # `transport.pause_reading` was called
    cdef bint looked_at              # the paused reading was looked at once since then
    cdef bint parsing_stopped        # by a full waiting queue
    cdef bint yielded                # by fairness: `proceed` goes on with the parser's tail
    cdef bint ran_handler            # since the clock was last looked at
    cdef int full_reads              # consecutive full reads: the peer sends faster than it is served
    cdef uint64_t left_queue         # procedures that have left the waiting queue
    cdef Liveness liveness           # the memory of the sweep

    # The methods of a role
    cdef int on_message(self, const uint8_t *data, Py_ssize_t size) except -1   # a binary message
    cdef int on_text(self, const uint8_t *data, Py_ssize_t size) except -1      # a text message, checked to be UTF-8
    # A binary message that comes too late; its first byte, if there is one, is unmasked.
    cdef int on_ignored(self, const uint8_t *data, Py_ssize_t size) except -1

    # The methods of a connection
    cdef int send_pong(self, bytes payload) except -1
    cdef int answer_close(self) except -1
    cdef int fail(self, int code, str reason) except -1   # the peer broke the protocol

    cdef int feed(self) except -1
    cdef int handle_event(self, int event) except -1
    cdef int decompress(self, bint is_text) except -1
    cdef int handle_isolated(self) except -1
    cdef int settle_reading(self) except -1
    cdef int hold_reading(self, bint hold) except -1
    cdef int restart_parsing(self) except -1
