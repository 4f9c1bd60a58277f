"""The frames that ask this end for work, or belong to work that it does for the other."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.ref cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memset

from sockrpc._debug cimport DEBUG
from sockrpc._frames cimport (
    FAULT_IGNORED, FAULT_NONE, OPCODE_CREDIT, OPCODE_END, OPCODE_ERROR, OPCODE_GOAWAY, OPCODE_HELLO, OPCODE_ITEM,
    OPCODE_KEEPALIVE_PING, OPCODE_KEEPALIVE_PONG, OPCODE_NOTIFY, OPCODE_OPEN, OPCODE_REQUEST, OPCODE_RESET,
    OPCODE_RESPONSE, OPCODE_ROWS, OPEN_METADATA, OPEN_NESTED, OPEN_SENDS_ITEMS, OPEN_TAKES_ITEMS, OPEN_TIMEOUT, Fault,
    Frame, fault_reason, name_fault, parse, text_fault,
)
from sockrpc.peer.call cimport Call
from sockrpc.peer.gate cimport CALL_COST, Gate
from sockrpc.peer.handler cimport Handler
from sockrpc.peer.inbox cimport Inbox, new_inbox
from sockrpc.peer.notification cimport Notification
from sockrpc.peer.options cimport CallOptions
from sockrpc.peer.outbox cimport new_outbox
from sockrpc.peer.outgoing_call cimport OutgoingCall
from sockrpc.peer.states cimport (
    CALLEE_ADD_CREDIT, CALLEE_CLOSE_INPUT, CALLEE_HOLD, CALLEE_IDLE, CALLEE_ON_CREDIT, CALLEE_ON_END, CALLEE_ON_ITEM,
    CALLEE_ON_RESET, CALLEE_WAITING, take_callee_row,
)
from sockrpc.peer.table cimport Entry
from sockrpc.peer.tally cimport ENDING_FAILED, ENDING_NONE, ENDING_RESET, ENDING_TIMED_OUT, Tally
from sockrpc.websocket.parser cimport copy_part

from sockrpc.codes import Code
from sockrpc.errors import RPCError
from sockrpc.peer.metadata import MAX_ENTRIES as _MAX_ENTRIES
from sockrpc.peer.metadata import MAX_METADATA_BYTES as _MAX_METADATA_BYTES
from sockrpc.peer.metadata import decode as decode_metadata

cdef enum:
    # An entry of metadata costs this much of `max_held_bytes` beside its bytes.
    ENTRY_COST = 128

cdef Py_ssize_t LARGEST_METADATA = _MAX_METADATA_BYTES
cdef Py_ssize_t MOST_ENTRIES = _MAX_ENTRIES
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


# The function for each opcode, a table per protocol. The rows of _frames.pyx say which opcodes may be received.
cdef FrameHandler[OPCODE_ROWS] RECEIVE_V0
cdef FrameHandler[OPCODE_ROWS] RECEIVE_V1
cdef FrameHandler[OPCODE_ROWS] RECEIVE_FIRST    # v1: until Hello has come
memset(RECEIVE_V0, 0, sizeof(RECEIVE_V0))
RECEIVE_V0[<int> OPCODE_NOTIFY] = Arrivals.on_notify
RECEIVE_V0[<int> OPCODE_REQUEST] = Arrivals.on_request
RECEIVE_V0[<int> OPCODE_RESET] = Arrivals.on_reset
RECEIVE_V0[<int> OPCODE_RESPONSE] = Arrivals.receive_response
memset(RECEIVE_V1, 0, sizeof(RECEIVE_V1))
RECEIVE_V1[<int> OPCODE_NOTIFY] = Arrivals.on_notify
RECEIVE_V1[<int> OPCODE_REQUEST] = Arrivals.on_open
RECEIVE_V1[<int> OPCODE_RESET] = Arrivals.on_reset
RECEIVE_V1[<int> OPCODE_RESPONSE] = Arrivals.receive_response
RECEIVE_V1[<int> OPCODE_OPEN] = Arrivals.on_open
RECEIVE_V1[<int> OPCODE_ITEM] = Arrivals.on_item
RECEIVE_V1[<int> OPCODE_END] = Arrivals.on_items_end
RECEIVE_V1[<int> OPCODE_CREDIT] = Arrivals.on_credit
RECEIVE_V1[<int> OPCODE_ERROR] = Arrivals.receive_error
RECEIVE_V1[<int> OPCODE_HELLO] = Arrivals.receive_hello
RECEIVE_V1[<int> OPCODE_GOAWAY] = Arrivals.receive_goaway
RECEIVE_V1[<int> OPCODE_KEEPALIVE_PING] = Arrivals.receive_ping
RECEIVE_V1[<int> OPCODE_KEEPALIVE_PONG] = Arrivals.receive_pong
for opcode in range(<int> OPCODE_ROWS):
    RECEIVE_FIRST[<int> opcode] = Arrivals.not_hello
RECEIVE_FIRST[<int> OPCODE_HELLO] = Arrivals.receive_hello
del opcode


cdef class Arrivals(Gate):
    """A connection that takes calls and notifications, and what belongs to them."""

    def set_protocol(self, protocol: str) -> None:
        """Choose the rows for a protocol."""
        Gate.set_protocol(self, protocol)
        if self.is_v1:
            self.frames = &RECEIVE_FIRST[0]
        else:
            self.frames = &RECEIVE_V0[0]

    cdef int begin_v1(self) except -1:
        """Take all frames, as the peer's Hello has come."""
        self.frames = &RECEIVE_V1[0]
        return 0

    # Frames

    cdef int on_message(self, const uint8_t *data, Py_ssize_t size) except -1:
        cdef Frame frame
        cdef Fault fault
        if self.parser.masked != NULL and data[0] > OPCODE_RESPONSE and data[0] != OPCODE_ITEM:
            # Their fields may be longer than the part that can be read directly. Of the others only the payload is,
            # which `copy_part` unmasks.
            self.parser.unmask()
        fault = parse(data, size, self.receiver, &frame)
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

    # An array of C functions cannot hold inherited methods.

    cdef int receive_response(self, Frame *frame) except -1:
        return self.on_response(frame)

    # Calls, and what belongs to them

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
                return self.refuse_call(frame.id, handler, name, TOO_MUCH_METADATA)
        if handler == NULL and self.service.methods is not None and not (self.service.stopping or self.leaving):
            self.on_unknown(frame.id, name)
            return self.send_error(frame.id, name, 1, RPCError(Code.UNIMPLEMENTED, f"nobody serves {name!r} here"))
        error = self.refusal(frame, flags, handler, metadata)
        if error is not None:
            return self.refuse_call(frame.id, handler, name, error)
        call = self.new_call(frame, handler, name)
        if flags:
            if flags & OPEN_TIMEOUT:
                call.until = self.context.loop_time(self.read_at) + frame.numbers[0] / 1000.0
            if flags & ~(OPEN_TIMEOUT | OPEN_NESTED):
                call.options = self.options_of(frame, metadata)
            if flags & OPEN_NESTED:
                call.nested = True
        self.incoming.add(call)
        if call.nested and self.service.methods is not None:
            self.ran_handler = True
            self.start(call)
        else:
            self.arrive(call)
        # Most calls have ended in their first step.
        if flags & OPEN_TIMEOUT and call.ending == ENDING_NONE:
            self.set_alarm(call)
        return 0

    cdef int on_alarm(self, Entry entry) except -1:
        if type(entry) is OutgoingCall:
            return self.expire(<OutgoingCall> entry)
        # To work that must run to its end this is what a reset is.
        return (<Call> entry).abort(ENDING_TIMED_OUT, False)

    cdef CallOptions options_of(self, Frame *frame, object metadata):
        cdef CallOptions options = CallOptions.__new__(CallOptions)
        options.flags = frame.flags
        if metadata is not None:
            options.metadata = metadata
            options.reserved = frame.text_size + ENTRY_COST * <Py_ssize_t> len(metadata)
        if frame.flags & OPEN_SENDS_ITEMS:
            options.inbox = new_inbox(self, frame.id, self.window, False)
            options.reserved += 2 * self.window
        if frame.flags & OPEN_TAKES_ITEMS:
            options.outbox = new_outbox(self, frame.id)
        self.reserved_bytes += options.reserved
        return options

    cdef object refusal(self, Frame *frame, int flags, PyObject *handler, object metadata):
        """Return the RPCError with which a call is refused before any of its work; None if it is not."""
        cdef Py_ssize_t reserved = 0
        cdef bint is_stream = handler != NULL and (<Handler> handler).streams
        if self.service.stopping or self.leaving:
            return LEAVING
        if flags:
            if flags & OPEN_METADATA:
                if frame.text_size > LARGEST_METADATA:
                    return TOO_MUCH_METADATA
                reserved = frame.text_size + ENTRY_COST * <Py_ssize_t> len(metadata)
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
        # In the socket form nested calls wait like all others until they are taken.
        if (not flags & OPEN_NESTED or self.service.methods is None) and (
            self.incoming.count - self.nested_count >= self.settings.limits.max_calls
        ):
            return TOO_MANY_CALLS
        if self.held_bytes() + frame.payload_size + reserved + CALL_COST > self.settings.limits.max_held_bytes:
            return TOO_MUCH_HELD
        return None

    cdef int refuse_call(self, uint32_t id, PyObject *handler, str name, object error) except -1:
        cdef Tally *tally = self.service.tally_of(handler)
        tally.received += 1
        tally.ended[<int> ENDING_FAILED] += 1
        return self.send_error(id, name if handler == NULL else (<Handler> handler).name, 1, error)

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
            return call.break_off(ENDING_RESET, RPCError(Code.INVALID_ARGUMENT, "an item after the end of the items"))
        if not inbox.add(copy_part(self.parser, frame.payload, frame.payload_size), frame.payload_size):
            return call.break_off(ENDING_RESET, RPCError(Code.RESOURCE_EXHAUSTED, "items without credit"))
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
        if call.options.inbox.closed:
            return 0
        call.options.inbox.close(None)
        # It can hold no more than the items that have come.
        self.reserved_bytes -= 2 * self.window - call.options.inbox.held
        call.options.reserved -= 2 * self.window - call.options.inbox.held
        return 0

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
            return call.break_off(ENDING_RESET, RPCError(Code.INVALID_ARGUMENT, "more credit than there can be"))
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
