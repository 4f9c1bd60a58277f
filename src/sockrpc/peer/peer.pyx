"""A connection with RPC, in either role: the meaning of frames, and the start and end of calls."""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memset

import asyncio

from sockrpc._debug cimport DEBUG
from sockrpc._frames cimport (
    FAULT_IGNORED, FAULT_NONE, MAX_NAME_BYTES, OPCODE_CREDIT, OPCODE_END, OPCODE_ERROR, OPCODE_GOAWAY, OPCODE_HELLO,
    OPCODE_ITEM, OPCODE_KEEPALIVE_PING, OPCODE_KEEPALIVE_PONG, OPCODE_NOTIFY, OPCODE_OPEN, OPCODE_REQUEST,
    OPCODE_RESET, OPCODE_RESPONSE, OPCODE_ROWS, OPEN_METADATA, OPEN_NESTED, OPEN_SENDS_ITEMS, OPEN_TAKES_ITEMS,
    OPEN_TIMEOUT, RECEIVER_CLIENT, RECEIVER_SERVER, Fault, Frame, fault_reason, name_fault, parse, receiver_of,
    text_fault, write_notify,
)
from sockrpc.peer.call cimport Call
from sockrpc.peer.gate cimport Gate
from sockrpc.peer.handler cimport Handler
from sockrpc.peer.inbox cimport Inbox, new_inbox
from sockrpc.peer.notification cimport Notification
from sockrpc.peer.options cimport CallOptions
from sockrpc.peer.outbox cimport new_outbox
from sockrpc.peer.procedure cimport Procedure
from sockrpc.peer.service cimport Service
from sockrpc.peer.states cimport (
    CALLEE_ADD_CREDIT, CALLEE_CLOSE_INPUT, CALLEE_HOLD, CALLEE_IDLE, CALLEE_ON_CREDIT, CALLEE_ON_END, CALLEE_ON_ENDED,
    CALLEE_ON_ITEM, CALLEE_ON_LOST, CALLEE_ON_RESET, CALLEE_SEND_END, CALLEE_STOPPING, CALLEE_WAITING,
    take_callee_row,
)
from sockrpc.peer.table cimport RequestTable
from sockrpc.peer.tally cimport (
    ENDING_ANSWERED, ENDING_FAILED, ENDING_LOST, ENDING_NONE, ENDING_RESET, ENDING_STOPPED, Tally,
)
from sockrpc.websocket.connection cimport Connection
from sockrpc.websocket.input cimport STATE_CLOSING, STATE_CONNECTING
from sockrpc.websocket.parser cimport Parser, copy_part

from sockrpc._frames import PROTOCOL_V0 as _PROTOCOL_V0
from sockrpc._frames import PROTOCOL_V1 as _PROTOCOL_V1
from sockrpc.codes import Code
from sockrpc.errors import RPCError, received_error
from sockrpc.peer.metadata import MAX_ENTRIES as _MAX_ENTRIES
from sockrpc.peer.metadata import MAX_METADATA_BYTES as _MAX_METADATA_BYTES
from sockrpc.peer.metadata import decode as decode_metadata

cdef enum:
    # What an open call costs of `max_held_bytes` beside its bytes.
    CALL_COST = 256
    UNAVAILABLE = 14

cdef Py_ssize_t LARGEST_METADATA = _MAX_METADATA_BYTES
cdef Py_ssize_t MOST_ENTRIES = _MAX_ENTRIES
# The codes by which a peer may not enter, rather than not now.
cdef tuple REFUSALS = (Code.PERMISSION_DENIED, Code.UNAUTHENTICATED)
cdef str NOT_HELLO = "the first frame is not a hello"

# The refusals, whose work never starts.
cdef object LEAVING = RPCError(Code.UNAVAILABLE, "this end takes no more calls")
cdef object TOO_MUCH_METADATA = RPCError(
    Code.INVALID_ARGUMENT, f"metadata has at most {_MAX_METADATA_BYTES} bytes and {_MAX_ENTRIES} entries")
cdef object TOO_LATE = RPCError(Code.DEADLINE_EXCEEDED, "the time-out of the call was over when it came")
cdef object TOO_MANY_NESTED = RPCError(Code.RESOURCE_EXHAUSTED, "too many nested calls")
cdef object IS_STREAM = RPCError(Code.FAILED_PRECONDITION, "this method streams, and the call takes no items")
cdef object TOO_MANY_CALLS = RPCError(Code.RESOURCE_EXHAUSTED, "too many open calls")
cdef object TOO_MUCH_HELD = RPCError(Code.RESOURCE_EXHAUSTED, "the calls of this connection hold too much")

cdef enum:
    # Calls to cancel per turn when a connection ends: each costs some microseconds here, and twice that in the next
    # iteration, when its task unwinds.
    ABORTED_AT_ONCE = 256
    # Calls to log and leave behind per turn at the end of the abort grace.
    LEFT_AT_ONCE = 64

# The two ends of a connection differ only in these fields.
cdef struct Role:
    bint masks               # RFC 6455 5.1
    bint closes_tcp_first    # RFC 6455 7.1.1
    int receives             # the bit of this role in the rows of _frames.pyx

cdef dict ROLE_NUMBERS = {"server": 0, "client": 1}
cdef Role[2] ROLES
ROLES[0] = Role(False, True, RECEIVER_SERVER)
ROLES[1] = Role(True, False, RECEIVER_CLIENT)

# The function for each opcode, a table per protocol. The rows of _frames.pyx say which opcodes may be received.
cdef FrameHandler[OPCODE_ROWS] RECEIVE_V0
cdef FrameHandler[OPCODE_ROWS] RECEIVE_V1
cdef FrameHandler[OPCODE_ROWS] RECEIVE_FIRST    # v1: until Hello has come
memset(RECEIVE_V0, 0, sizeof(RECEIVE_V0))
RECEIVE_V0[<int> OPCODE_NOTIFY] = PeerBase.on_notify
RECEIVE_V0[<int> OPCODE_REQUEST] = PeerBase.on_request
RECEIVE_V0[<int> OPCODE_RESET] = PeerBase.on_reset
RECEIVE_V0[<int> OPCODE_RESPONSE] = PeerBase.receive_response
memset(RECEIVE_V1, 0, sizeof(RECEIVE_V1))
RECEIVE_V1[<int> OPCODE_NOTIFY] = PeerBase.on_notify
RECEIVE_V1[<int> OPCODE_REQUEST] = PeerBase.on_open
RECEIVE_V1[<int> OPCODE_RESET] = PeerBase.on_reset
RECEIVE_V1[<int> OPCODE_RESPONSE] = PeerBase.receive_response
RECEIVE_V1[<int> OPCODE_OPEN] = PeerBase.on_open
RECEIVE_V1[<int> OPCODE_ITEM] = PeerBase.on_item
RECEIVE_V1[<int> OPCODE_END] = PeerBase.on_items_end
RECEIVE_V1[<int> OPCODE_CREDIT] = PeerBase.on_credit
RECEIVE_V1[<int> OPCODE_ERROR] = PeerBase.receive_error
RECEIVE_V1[<int> OPCODE_HELLO] = PeerBase.receive_hello
RECEIVE_V1[<int> OPCODE_GOAWAY] = PeerBase.receive_goaway
RECEIVE_V1[<int> OPCODE_KEEPALIVE_PING] = PeerBase.receive_ping
RECEIVE_V1[<int> OPCODE_KEEPALIVE_PONG] = PeerBase.receive_pong
for opcode in range(<int> OPCODE_ROWS):
    RECEIVE_FIRST[<int> opcode] = PeerBase.not_hello
RECEIVE_FIRST[<int> OPCODE_HELLO] = PeerBase.receive_hello
del opcode


# Peer, at the end of this file, joins it to asyncio.BufferedProtocol.
cdef class PeerBase(Gate):
    """An end of a connection.

    Args:
        role: "server" or "client".
        service: The state shared by all connections of a server; a client's connection has one of its own.
        handshake: Receives the bytes of the opening handshake; None in tests without one.
    """

    def __init__(self, str role, Service service, handshake=None):
        self.role = &ROLES[<int> ROLE_NUMBERS[role]]
        self.service = service
        self.settings = service.settings
        self.context = service.context
        self.handshake = handshake
        self.masks = self.role.masks
        self.closes_tcp_first = self.role.closes_tcp_first
        self.parser = Parser(role, self.settings.limits.max_message_bytes)
        self.incoming = RequestTable()
        self.receiver = receiver_of(_PROTOCOL_V0, self.role.receives)
        self.set_protocol(_PROTOCOL_V0)

    def set_protocol(self, protocol: str) -> None:
        """Choose the rows for a protocol."""
        Gate.set_protocol(self, protocol)
        if self.is_v1:
            self.frames = &RECEIVE_FIRST[0]
        else:
            self.frames = &RECEIVE_V0[0]

    def connection_made(self, transport) -> None:
        """Called by the transport when it is connected; the opening handshake begins."""
        # Register here, not in __init__: if the TLS handshake fails, connection_lost is never called and this
        # object would leak.
        if self.service.make_socket is not None:
            self.socket = self.service.make_socket(self)
        self.is_attached = True
        self.attach()
        Connection.connection_made(self, transport)

    def refuse(self, data: bytes, unread: int = 0, *, early: bool = False) -> None:
        """Write an HTTP response that refuses the WebSocket, then close."""
        if early:
            # A refused connection must not keep others out.
            self.is_attached = False
            self.service.attached -= 1
        Connection.refuse(self, data, unread, early=early)

    # The application's side

    def opened(self, gate_closed: bool) -> None:
        """Accept calls, as the opening handshake is complete; while `gate_closed` they wait for `open_gate`."""
        self.gate_closed = gate_closed
        self.service.connections.add(self)
        if self.service.stopping:
            self.drain()

    def open_gate(self) -> None:
        """Let calls start, as the application is ready (its on_connect hook has finished)."""
        self.gate_closed = False
        self.send_keepalive_pong()
        self.advance()

    @property
    def in_flight(self) -> int:
        """Number of calls that were neither answered nor reset."""
        return self.incoming.count - self.stopping_count

    @property
    def load(self) -> tuple[int, int, int]:
        """Number of calls that have started and not ended, of waiting procedures, and of notification handlers."""
        return self.active_count, self.waiting.count, self.notifying

    def notify(self, name: bytes, payload: bytes) -> None:
        """Append a notification to the output. The caller has checked the name.

        A client asks `is_writable` first, which writes the requests made before.
        """
        cdef uint8_t prefix[2 + MAX_NAME_BYTES]
        cdef const uint8_t *data = name
        self.send(prefix, write_notify(prefix, data, PyBytes_GET_SIZE(name)), payload)
        if not self.pumping:
            self.write_soon(self.outgoing.count == 0 and self.active_count + self.notifying <= 1)

    # Frames

    cdef int on_message(self, const uint8_t *data, Py_ssize_t size) except -1:
        cdef Frame frame
        cdef Fault fault = parse(data, size, self.receiver, &frame)
        if fault != FAULT_NONE:
            if fault == FAULT_IGNORED and self.greeted:
                self.ran_handler = True
                self.service.frames_ignored += 1
                return 0
            return self.fail(1002, NOT_HELLO if fault == FAULT_IGNORED else fault_reason(fault))
        # `parse` lets only the opcodes of this protocol and role through.
        return self.frames[frame.opcode](self, &frame)

    cdef int on_text(self, const uint8_t *data, Py_ssize_t size) except -1:
        return self.fail(1003, text_fault())

    cdef int on_request(self, Frame *frame) except -1:
        cdef Call call
        cdef PyObject *handler = NULL
        cdef str name = None
        if self.incoming.find(frame.id) != NULL:
            return self.fail(1002, "id in use")
        if self.service.methods is not None:
            handler = self.service.methods.find(frame.name, frame.name_size)
        if handler == NULL:
            name = self.decode_name(frame)
            if name is None:
                return 0
        if self.service.stopping:
            # A 1001 close is on its way, so no new call starts.
            return 0
        if handler == NULL and self.service.methods is not None:
            # The log line for an unknown method costs more than most handlers.
            self.ran_handler = True
            return self.on_unknown(frame.id, name)
        call = self.new_call(frame, handler, name)
        self.incoming.add(call)
        return self.arrive(call)

    cdef Call new_call(self, Frame *frame, PyObject *handler, str name):
        cdef Call call = Call.__new__(Call)
        call.is_call = True
        call.id = frame.id
        call.connection = self
        call.service = self.service
        call.payload = copy_part(self.parser, frame.payload, frame.payload_size)
        if handler != NULL:
            call.handler = <Handler> handler
            name = call.handler.name
        call.name = name
        call.state = CALLEE_WAITING
        call.since = self.read_at
        call.tally = self.service.tally_of(handler)
        call.tally.received += 1
        return call

    # Frames of sockrpc.v1

    cdef int not_hello(self, Frame *frame) except -1:
        return self.fail(1002, NOT_HELLO)

    cdef int receive_hello(self, Frame *frame) except -1:
        return self.take_hello(frame)

    cdef int receive_goaway(self, Frame *frame) except -1:
        return self.on_goaway(frame)

    cdef int receive_ping(self, Frame *frame) except -1:
        return self.on_keepalive_ping(frame)

    cdef int receive_pong(self, Frame *frame) except -1:
        return self.on_keepalive_pong(frame)

    cdef int receive_error(self, Frame *frame) except -1:
        return self.on_error_frame(frame)

    cdef int on_greeted(self, object metadata) except -1:
        self.frames = &RECEIVE_V1[0]
        self.hello = metadata
        if self.socket is not None:
            self.socket._opened(_PROTOCOL_V1)
        return 0

    cdef int on_peer_leaves(self) except -1:
        return self.refuse_unsent()

    cdef int on_open(self, Frame *frame) except -1:
        """Receive a Request or an Open, which is a request with options."""
        cdef Call call
        cdef PyObject *handler = NULL
        cdef str name = None
        cdef int flags = frame.flags if frame.opcode == OPCODE_OPEN else 0
        cdef object error
        cdef object metadata = None
        if self.incoming.find(frame.id) != NULL:
            return self.fail(1002, "id in use")
        if self.service.methods is not None:
            handler = self.service.methods.find(frame.name, frame.name_size)
        if handler == NULL:
            name = self.decode_name(frame)
            if name is None:
                return 0
        if flags & OPEN_METADATA and frame.text_size <= LARGEST_METADATA:
            metadata = decode_metadata(PyBytes_FromStringAndSize(<const char *> frame.text, frame.text_size))
            if metadata is None:
                return self.fail(1002, "metadata that does not parse")
            if len(metadata) > MOST_ENTRIES:
                return self.refuse_call(frame.id, handler, TOO_MUCH_METADATA)
        if handler == NULL and self.service.methods is not None and not (self.service.stopping or self.leaving):
            self.on_unknown(frame.id, name)
            return self.send_error(frame.id, 1, RPCError(Code.UNIMPLEMENTED, f"nobody serves {name!r} here"))
        error = self.refusal(frame, flags, handler)
        if error is not None:
            return self.refuse_call(frame.id, handler, error)
        call = self.new_call(frame, handler, name)
        if flags:
            call.options = self.options_of(frame, metadata)
            if flags & OPEN_NESTED:
                call.nested = True
        self.incoming.add(call)
        if call.nested and self.service.methods is not None:
            self.ran_handler = True
            self.start(call)
        else:
            self.arrive(call)
        if flags & OPEN_TIMEOUT and call.ending == ENDING_NONE:
            call.arm_deadline()
        return 0

    cdef CallOptions options_of(self, Frame *frame, object metadata):
        cdef CallOptions options = CallOptions.__new__(CallOptions)
        options.flags = frame.flags
        if metadata is not None:
            options.metadata = metadata
            options.reserved = frame.text_size
        if frame.flags & OPEN_TIMEOUT:
            options.deadline = <double> self.context.loop.time() + frame.numbers[0] / 1000.0
        if frame.flags & OPEN_SENDS_ITEMS:
            options.inbox = new_inbox(self, frame.id, self.window, False)
            options.reserved += 2 * self.window
        if frame.flags & OPEN_TAKES_ITEMS:
            options.outbox = new_outbox(self, frame.id)
        self.reserved_bytes += options.reserved
        return options

    cdef object refusal(self, Frame *frame, int flags, PyObject *handler):
        """Return the RPCError with which a call is refused before any of its work; None if it is not."""
        cdef Py_ssize_t reserved = 0
        cdef bint is_stream = handler != NULL and (<Handler> handler).is_stream()
        if self.service.stopping or self.leaving:
            return LEAVING
        if flags:
            if flags & OPEN_METADATA:
                if frame.text_size > LARGEST_METADATA:
                    return TOO_MUCH_METADATA
                reserved = frame.text_size
            if flags & OPEN_TIMEOUT and frame.numbers[0] == 0:
                return TOO_LATE
            if flags & OPEN_SENDS_ITEMS:
                reserved += 2 * self.window
            if flags & OPEN_NESTED and (
                self.nested_count >= self.settings.limits.max_in_flight or self.gate_closed
                or self.service.methods is None and self.active_count >= self.settings.limits.max_in_flight
            ):
                return TOO_MANY_NESTED
        if is_stream and not flags & OPEN_TAKES_ITEMS:
            return IS_STREAM
        if not flags & OPEN_NESTED and (
            self.incoming.count - self.nested_count >= self.settings.limits.max_calls
        ):
            return TOO_MANY_CALLS
        if (
            self.waiting_bytes + self.running_bytes + self.reserved_bytes + CALL_COST * self.incoming.count
            + frame.payload_size + reserved + CALL_COST > self.settings.limits.max_held_bytes
        ):
            return TOO_MUCH_HELD
        return None

    cdef int refuse_call(self, uint32_t id, PyObject *handler, object error) except -1:
        cdef Tally *tally = self.service.tally_of(handler)
        tally.received += 1
        tally.ended[<int> ENDING_FAILED] += 1
        return self.send_error(id, 1, error)

    cdef int on_item(self, Frame *frame) except -1:
        cdef PyObject *entry
        cdef Call call
        cdef Inbox inbox
        if (frame.id & <uint32_t> 0x80000000) == self.receiver.own:
            return self.on_item_for_us(frame)
        entry = self.incoming.find(frame.id)
        if entry == NULL:
            if DEBUG:
                take_callee_row(self.life, CALLEE_IDLE, CALLEE_ON_ITEM)
            return 0
        call = <Call> entry
        if call.step(CALLEE_ON_ITEM, ENDING_NONE) != CALLEE_HOLD:
            return 0
        if call.options is None or call.options.inbox is None:
            return self.fail(1002, "item for a call without items")
        inbox = call.options.inbox
        if inbox.closed:
            return call.break_off(RPCError(Code.INVALID_ARGUMENT, "an item after the end of the items"))
        if not inbox.add(PyBytes_FromStringAndSize(<const char *> frame.payload, frame.payload_size), frame.payload_size):
            return call.break_off(RPCError(Code.RESOURCE_EXHAUSTED, "items without credit"))
        return 0

    cdef int on_items_end(self, Frame *frame) except -1:
        cdef PyObject *entry = self.incoming.find(frame.id)
        cdef Call call
        if entry == NULL:
            if DEBUG:
                take_callee_row(self.life, CALLEE_IDLE, CALLEE_ON_END)
            return 0
        call = <Call> entry
        if call.step(CALLEE_ON_END, ENDING_NONE) != CALLEE_CLOSE_INPUT:
            return 0
        if call.options is None or call.options.inbox is None:
            return self.fail(1002, "end of items for a call without items")
        return call.options.inbox.close(None)

    cdef int on_credit(self, Frame *frame) except -1:
        cdef PyObject *entry
        cdef Call call
        if (frame.id & <uint32_t> 0x80000000) == self.receiver.own:
            return self.on_credit_for_us(frame)
        # A peer may send nothing but small credits.
        self.ran_handler = True
        entry = self.incoming.find(frame.id)
        if entry == NULL:
            if DEBUG:
                take_callee_row(self.life, CALLEE_IDLE, CALLEE_ON_CREDIT)
            return 0
        call = <Call> entry
        if call.step(CALLEE_ON_CREDIT, ENDING_NONE) != CALLEE_ADD_CREDIT:
            return 0
        if call.options is None or call.options.outbox is None:
            return 0
        if not call.options.outbox.add(frame.numbers[0]):
            return call.break_off(RPCError(Code.INVALID_ARGUMENT, "more credit than there can be"))
        return 0

    cdef int widen(self, int64_t bytes) except -1:
        cdef Call call
        Gate.widen(self, bytes)
        for call in self.incoming.entries():
            if call.options is not None and call.options.outbox is not None:
                call.options.outbox.add(bytes)
        return 0

    cdef int on_reset(self, Frame *frame) except -1:
        # Call.abort (call.pyx) acts on it.
        cdef PyObject *entry = self.incoming.find(frame.id)
        cdef Call call
        if entry != NULL:
            # Take a reference: leaving the waiting queue may drop the last other one.
            call = <Call> entry
            # Thousands of resets in one read take as long as handlers do.
            self.ran_handler = True
            call.abort(ENDING_RESET, False)
        elif DEBUG:
            # A call that is not in the table is idle: the reset crossed the answer, a normal outcome of a race.
            take_callee_row(self.life, CALLEE_IDLE, CALLEE_ON_RESET)
        return 0

    cdef int receive_response(self, Frame *frame) except -1:
        # An array of C functions cannot hold an inherited method.
        return self.on_response(frame)

    cdef int on_notify(self, Frame *frame) except -1:
        cdef Notification notification
        cdef PyObject *handler = NULL
        cdef str name = None
        if self.subscriptions and self.deliver(frame):
            return 0
        if self.early is not None and self.keep_early(frame):
            return 0
        if self.service.events is not None:
            handler = self.service.events.find(frame.name, frame.name_size)
        if handler == NULL:
            name = self.decode_name(frame)
            if name is None:
                return 0
            if self.service.events is not None:
                self.service.notifications_dropped += 1
                return 0
        notification = Notification.__new__(Notification)
        notification.connection = self
        notification.service = self.service
        notification.payload = copy_part(self.parser, frame.payload, frame.payload_size)
        if handler != NULL:
            notification.handler = <Handler> handler
            name = notification.handler.name
        notification.name = name
        return self.arrive(notification)

    cdef bint keep_early(self, Frame *frame) except -1:
        """Keep a notification for listeners that the client's user has had no chance to make yet."""
        cdef Py_ssize_t size = frame.name_size + frame.payload_size
        if (
            len(self.early) >= self.settings.limits.max_listener_payloads
            or self.early_bytes + size > self.settings.limits.max_listener_bytes
        ):
            return False
        self.early_bytes += size
        self.early.append((
            PyBytes_FromStringAndSize(<const char *> frame.name, frame.name_size),
            PyBytes_FromStringAndSize(<const char *> frame.payload, frame.payload_size)))
        return True

    def keep_early_notifications(self) -> None:
        """Keep notifications until `deliver_early`, as the user of this client cannot listen yet."""
        self.early = []

    def deliver_early(self) -> None:
        """Give the kept notifications to those that listen by now."""
        cdef Frame frame
        cdef const uint8_t *data
        early, self.early = self.early, None
        for name, payload in early or ():
            frame.opcode = OPCODE_NOTIFY
            data = <bytes> name
            frame.name = data
            frame.name_size = len(name)
            data = <bytes> payload
            frame.payload = data
            frame.payload_size = len(payload)
            if not self.ended and self.subscriptions:
                self.deliver(&frame)

    cdef int on_ignored(self, const uint8_t *data, Py_ssize_t size) except -1:
        self.service.notifications_dropped += size > 0 and data[0] == OPCODE_NOTIFY
        return 0

    cdef str decode_name(self, Frame *frame):
        try:
            return PyUnicode_DecodeUTF8(<const char *> frame.name, frame.name_size, NULL)
        except UnicodeDecodeError:
            self.fail(1002, name_fault())
            return None

    # Ending

    def turn_away(self, error) -> None:
        """Close the connection as the application has refused it with an RPCError."""
        if self.is_v1:
            self.say_goaway(error.code, 0.0, error.message)
        # RFC 6455 7.4.1
        self.close(1008 if error.code in REFUSALS else 1001, error.message)

    def close(self, code: int, reason: str) -> None:
        """Begin to close; calls in flight end with it."""
        if self.is_v1 and self.is_drained():
            self.say_goaway(UNAVAILABLE, 0.0, reason)
        Connection.close(self, code, reason)

    def refusal_of_peer(self):
        """Return the RPCError with which the peer's application has refused this connection; None if it has not."""
        if not self.parted:
            return None
        return received_error(self.parting_code, 1, self.parting_message, b"")

    def drain(self) -> None:
        """Start no more calls, as the server stops, and close once those in flight are answered."""
        if self.draining or self.ended:
            return
        if self.state == STATE_CONNECTING and self.handshake is not None:
            # The connection came before the stop, so it is let in, and `opened` comes back here.
            self.hasten_opening()
            return
        self.draining = True
        if self.is_v1:
            self.say_goaway(UNAVAILABLE, self.settings.limits.stop_grace or 0.001, "server stopping")
            self.refuse_unsent()
        self.abort_in_turns([each for each in self.incoming.entries() if (<Procedure> each).queue is self.waiting])
        self.advance()

    cdef int hasten_opening(self) except -1:
        # A stalling peer gets `close_timeout`, counted from its arrival, like one that does not close; the
        # application gets all of `handshake_timeout`.
        cdef double began = self.liveness.deadline - self.settings.limits.handshake_timeout
        cdef double until = began + self.settings.limits.close_timeout
        if self.handshake.is_decided:
            if until <= self.context.loop.time():
                return self.close_for_stop()
            self.liveness.deadline = min(self.liveness.deadline, until)
        return 0

    cdef bint has_grace(self) except -1:
        # Answers are on their way to a slow reader, which may use all of the grace.
        return (
            self.stopped and not self.grace_over and self.state == STATE_CLOSING
            and self.transport.get_write_buffer_size() > 0
        )

    cdef int close_for_stop(self) except -1:
        self.stopped = True
        if self.is_v1 and self.is_drained():
            # Whoever gets this knows that a call without an end was never received.
            self.say_goaway(UNAVAILABLE, 0.0, "server stopping")
        return self.start_close(1001, "server stopping")

    cdef int on_end(self) except -1:
        cdef Call call
        cdef Py_ssize_t bucket = 0
        cdef Py_ssize_t active = 0
        cdef int ending = ENDING_STOPPED if self.stopped else ENDING_LOST
        self.fail_all()
        self.end_session()
        self.service.connections.discard(self)
        self.aborting = []
        # Calls that wait behind these must not start meanwhile.
        self.pumping = True
        try:
            # The cancels of many calls take turns, but one thing must hold at once: nothing is in flight any more,
            # and no call can be answered.
            while self.incoming.count:
                call = <Call> self.incoming.next_entry(&bucket)
                if call.state == CALLEE_WAITING:
                    call.abort(ending, self.stopped)
                    continue
                self.aborting.append(call)
                if call.state != CALLEE_STOPPING:
                    call.mark_aborted(ending)
                    call.cancel_is_due = self.stopped or not call.is_protected()
                if call.state == CALLEE_STOPPING:
                    # Nobody is left who could be told its end.
                    call.step(CALLEE_ON_LOST, ending)
                active += call.queue is not None
            # Work that goes on after its answer ends too, so that nothing outlives its connection by accident.
            if self.active is not None and active < self.active.count:
                self.aborting[:0] = [
                    call for call in self.active_work()
                    if call.ending == ENDING_ANSWERED or call.ending == ENDING_FAILED
                    or self.grace_over and not call.cancel_is_due
                ]
        finally:
            self.pumping = False
        self.abort_some()
        if self.socket is not None:
            self.socket._ended()
        self.wake_takers(True)
        # Notifications still start, because the client did not wait for them.
        return self.advance()

    cdef int abort_in_turns(self, list calls) except -1:
        self.aborting = calls if self.aborting is None else calls + self.aborting
        return self.abort_some()

    cdef int abort_some(self) except -1:
        """Abort some calls, the last first, and the rest after other connections had their turn."""
        cdef Call call
        cdef list some = self.aborting[-ABORTED_AT_ONCE:]
        del self.aborting[-ABORTED_AT_ONCE:]
        for call in some:
            try:
                if self.grace_over or call.ending == ENDING_NONE or call.ending >= ENDING_RESET:
                    # Calls that were given up keep their reason; the others are aborted by the stop.
                    call.abort(ENDING_STOPPED, self.stopped)
                elif not call.is_protected():
                    call.cancel_work()
            except Exception as error:  # pragma: no memory
                self.context.report(error)  # pragma: no memory
        if self.aborting:
            self.context.postpone(self)
        return 0

    cdef int proceed(self) except -1:
        if self.aborting:
            self.abort_some()
        return Gate.proceed(self)

    cdef int on_lost(self) except -1:
        self.keep_transferred()
        return self.advance()

    def active_work(self) -> list[Call]:
        """Return the calls whose work has not ended."""
        cdef list calls = []
        cdef Procedure procedure = None if self.active is None else self.active.head
        while procedure is not None:
            calls.append(procedure)
            procedure = procedure.following
        return calls

    def end_grace(self) -> None:
        """End the stop grace: abort all work that still runs, then close."""
        self.draining = True
        self.grace_over = True
        self.stopped = True
        if self.ended:
            self.abort_in_turns(self.active_work())
        elif self.is_v1 and self.greeted:
            # Each call gets its end when its work has unwound, and then the connection is closed.
            self.reset_all()
            self.abort_in_turns(self.incoming.entries())
        else:
            # The end of the connection aborts its calls.
            self.close_for_stop()
        self.advance()

    def end_abort_grace(self) -> Iterator[None]:
        """End the abort grace: cancel remaining work once more, log whose fault it is, and leave it behind.

        Yields now and then so that other work of the loop can run, as each call takes a log line.
        """
        cdef Call call
        for index, call in enumerate(self.active_work(), 1):
            call.cancel_again()
            if call.state == CALLEE_STOPPING and call.step(CALLEE_ON_ENDED, call.ending) == CALLEE_SEND_END:
                call.send_end()
            if index % LEFT_AT_ONCE == 0:
                yield
        if self.is_v1 and not self.ended:
            self.close_for_stop()
            if self.transport is not None and self.transport.get_write_buffer_size() == 0:
                self.close_transport()
                return
        if self.transport is not None:
            self.drop("server stopping")


class Peer(PeerBase, asyncio.BufferedProtocol):
    """An end of a connection, as asyncio recognises it.

    asyncio asks `isinstance(protocol, BufferedProtocol)`, which a compiled class cannot inherit from.
    """

    __slots__ = ()
