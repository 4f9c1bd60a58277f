"""A connection with RPC, in either role: the meaning of frames, and the start and end of calls."""

cimport cython
from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.ref cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t

import asyncio

from sockrpc._debug cimport DEBUG
from sockrpc._frames cimport (
    FAULT_NONE, MAX_NAME_BYTES, OPCODE_NOTIFY, OPCODE_REQUEST, OPCODE_RESET, OPCODE_RESPONSE, RECEIVER_CLIENT,
    RECEIVER_SERVER, Fault, Frame, fault_reason, name_fault, parse, text_fault, write_notify,
)
from sockrpc.peer.call cimport Call
from sockrpc.peer.gate cimport Gate
from sockrpc.peer.handler cimport Handler
from sockrpc.peer.notification cimport Notification
from sockrpc.peer.procedure cimport Procedure
from sockrpc.peer.service cimport Service
from sockrpc.peer.table cimport RequestTable
from sockrpc.peer.tally cimport (
    ENDING_ANSWERED, ENDING_FAILED, ENDING_LOST, ENDING_NONE, ENDING_RESET, ENDING_STOPPED,
)
from sockrpc.peer.states cimport CALLEE_IDLE, CALLEE_ON_RESET, CALLEE_WAITING, life_of, take_callee_row
from sockrpc.websocket.connection cimport Connection
from sockrpc.websocket.input cimport STATE_CLOSING, STATE_CONNECTING
from sockrpc.websocket.parser cimport Parser, copy_part

from sockrpc._frames import SUBPROTOCOL as _SUBPROTOCOL

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

ctypedef int (*FrameHandler)(PeerBase, Frame *) except -1

cdef enum:
    OPCODES = 5

# The function for each opcode. The rows of _frames.pyx say which opcodes a role may receive.
cdef FrameHandler[OPCODES] RECEIVE
RECEIVE[0] = NULL
RECEIVE[<int> OPCODE_NOTIFY] = PeerBase.on_notify
RECEIVE[<int> OPCODE_REQUEST] = PeerBase.on_request
RECEIVE[<int> OPCODE_RESET] = PeerBase.on_reset
RECEIVE[<int> OPCODE_RESPONSE] = PeerBase.receive_response


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
        self.life = life_of(_SUBPROTOCOL)

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
        self.advance()

    @property
    def in_flight(self) -> int:
        """Number of calls that were neither answered nor reset."""
        return self.incoming.count

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
        cdef Fault fault = parse(data, size, self.role.receives, &frame)
        if fault != FAULT_NONE:
            return self.fail(1002, fault_reason(fault))
        # `parse` lets only the opcodes of this role through.
        return RECEIVE[frame.opcode](self, &frame)

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
        call = Call.__new__(Call)
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
        self.incoming.add(call)
        return self.arrive(call)

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

    def drain(self) -> None:
        """Start no more calls, as the server stops, and close once those in flight are answered."""
        if self.draining or self.ended:
            return
        if self.state == STATE_CONNECTING and self.handshake is not None:
            # The connection came before the stop, so it is let in, and `opened` comes back here.
            self.hasten_opening()
            return
        self.draining = True
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
        return self.start_close(1001, "server stopping")

    cdef int on_end(self) except -1:
        cdef Call call
        cdef Py_ssize_t bucket = 0
        cdef Py_ssize_t active = 0
        cdef int ending = ENDING_STOPPED if self.stopped else ENDING_LOST
        self.fail_all()
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
                call.mark_aborted(ending)
                call.cancel_is_due = self.stopped or call.handler is None or not call.handler.run_to_completion
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
                elif call.handler is None or not call.handler.run_to_completion:
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
            if index % LEFT_AT_ONCE == 0:
                yield
        if self.transport is not None:
            self.drop("server stopping")


class Peer(PeerBase, asyncio.BufferedProtocol):
    """An end of a connection, as asyncio recognises it.

    asyncio asks `isinstance(protocol, BufferedProtocol)`, which a compiled class cannot inherit from.
    """

    __slots__ = ()
