# The two ends of a connection agree: who speaks which protocol, what each takes, and when they part.

from libc.stdint cimport int64_t, uint8_t, uint32_t

from sockrpc._frames cimport Frame, Receiver
from sockrpc.peer.states cimport Life
from sockrpc.peer.tally cimport Traffic
from sockrpc.websocket.connection cimport Connection

cdef enum:
    # The numbers that hold until the peer's Hello has come (PROTOCOL.md).
    FIRST_CALLS = 64
    FIRST_WINDOW = 65_536
    FIRST_MESSAGE_BYTES = 1_048_576
    LARGEST_WINDOW = 0x7FFFFFFF    # no balance may be larger

cdef class Session(Connection):
    cdef const Receiver *receiver    # says which frames this end may receive
    cdef const Life *life            # the table of a call's life in this connection's protocol
    cdef readonly bint is_v1
    cdef readonly bint greeted       # v1: the peer's Hello has come
    cdef uint32_t their_calls        # the numbers of the peer's Hello
    cdef Py_ssize_t their_window
    cdef Py_ssize_t their_message_bytes
    cdef Py_ssize_t window           # bytes that the peer may send per call without credit: ours
    cdef readonly bint peer_leaves   # its Goaway has come
    cdef readonly bint parted        # its last Goaway, with grace 0, has come: it took no more calls than it has ended
    cdef object farewell             # future of `peer_leaves`, or of the end; None unless somebody waits
    cdef uint8_t parting_code        # that of the peer's Goaway
    cdef str parting_message
    cdef bint leaving                # our Goaway was sent
    cdef bint taken_leave            # our last Goaway, with grace 0, was sent
    cdef bytes said                  # metadata of our Hello
    cdef object hello_timer
    cdef object greeting             # future of `greeted`, None unless a client waits
    cdef bytes pending_keepalive     # payload of the latest Ping that waits for its Pong
    cdef object pongs                # deque of futures, of Pings that this end has sent; None until the first
    cdef object callbacks            # the context that callbacks run in, None until one is needed
    cdef dict stalled                # senders of items that wait for room in the output, as keys; None until the first
    cdef Traffic traffic             # since it began; `keep_transferred` moves it to the service
    cdef Py_ssize_t items_blocked    # items whose senders wait for credit

    cdef object callback_context(self)
    cdef int say_hello(self) except -1
    cdef int take_hello(self, Frame *frame) except -1
    cdef int on_goaway(self, Frame *frame) except -1
    cdef int on_keepalive_ping(self, Frame *frame) except -1
    cdef int on_keepalive_pong(self, Frame *frame) except -1
    cdef int send_keepalive_pong(self) except -1
    cdef bint may_answer_keepalive(self) noexcept
    cdef int say_goaway(self, int code, double grace, str message) except -1
    cdef int wake_stalled(self) except -1
    cdef int end_session(self) except -1
    # A role says what it does with these.
    cdef int on_greeted(self, object metadata) except -1
    cdef int on_peer_leaves(self) except -1
    cdef int on_calls_over(self) except -1            # none of the calls of this end is open any more, and it leaves
    cdef int widen(self, int64_t bytes) except -1     # the balance of each open call grows

# UTF-8 of a text, cut at a character to at most `size` bytes.
cdef bytes text_within(str text, Py_ssize_t size)
