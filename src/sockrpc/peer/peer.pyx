"""A connection with RPC, in either role: the meaning of frames, and the start and end of calls."""

cimport cython
from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stdint cimport uint8_t

import asyncio

from sockrpc._frames cimport MAX_NAME_BYTES, RECEIVER_CLIENT, RECEIVER_SERVER, receiver_of, write_notify
from sockrpc.peer.arrivals cimport Arrivals
from sockrpc.peer.call cimport Call
from sockrpc.peer.procedure cimport Procedure
from sockrpc.peer.service cimport Service
from sockrpc.peer.session cimport text_within
from sockrpc.peer.states cimport (
    CALLEE_IDLE, CALLEE_ON_ENDED, CALLEE_ON_LOST, CALLEE_SEND_END, CALLEE_STOPPING, CALLEE_WAITING,
)
from sockrpc.peer.table cimport RequestTable
from sockrpc.peer.tally cimport (
    ENDING_ANSWERED, ENDING_FAILED, ENDING_LOST, ENDING_NONE, ENDING_RESET, ENDING_STOPPED,
)
from sockrpc.websocket.connection cimport Connection
from sockrpc.websocket.input cimport STATE_CLOSING, STATE_CONNECTING
from sockrpc.websocket.parser cimport MAX_CONTROL_BYTES, Parser, close_payload

from sockrpc._frames import PROTOCOL_V0 as _PROTOCOL_V0
from sockrpc._frames import PROTOCOL_V1 as _PROTOCOL_V1
from sockrpc.codes import Code
from sockrpc.errors import received_error

cdef enum:
    UNAVAILABLE = 14

# The codes by which a peer may not enter, rather than not now.
cdef tuple REFUSALS = (Code.PERMISSION_DENIED, Code.UNAUTHENTICATED)

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

# Peer, at the end of this file, joins it to asyncio.BufferedProtocol.
cdef class PeerBase(Arrivals):
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

    cdef int on_greeted(self, object metadata) except -1:
        self.begin_v1()
        self.hello = metadata
        if self.socket is not None:
            self.socket._opened(_PROTOCOL_V1)
        return 0

    cdef int on_peer_leaves(self) except -1:
        return self.refuse_unsent()

    cdef int on_calls_over(self) except -1:
        return self.close_if_drained() if self.draining else 0

    # Ending

    def turn_away(self, error) -> None:
        """Close the connection as the application has refused it with an RPCError."""
        if self.is_v1:
            self.say_goaway(error.code, 0.0, error.message)
        # RFC 6455 7.4.1
        self.close(
            1008 if error.code in REFUSALS else 1001, text_within(error.message, MAX_CONTROL_BYTES - 2).decode())

    def close(self, code: int, reason: str) -> None:
        """Begin to close; calls in flight end with it."""
        if self.is_v1 and self.is_drained():
            # Nothing may be said before the code and the reason are known to be right.
            close_payload(code, reason)
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

    @property
    def is_stopping(self) -> bool:
        """True while the server stops, until the connection ends."""
        return self.draining and not self.ended

    cdef int close_for_stop(self) except -1:
        self.stopped = True
        if self.is_v1 and self.is_drained():
            # A peer that gets this knows that a call without an end was never received.
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
                if call.state == CALLEE_IDLE and call.counts and call.work == 0 and not call.starting:
                    # The application of the socket form has kept it since it was aborted, and may do so for ever.
                    call.finish()
            except Exception as error:  # pragma: no memory
                self.context.report(error)  # pragma: no memory
        if self.aborting:
            self.context.postpone(self)
        return 0

    cdef int proceed(self) except -1:
        if self.aborting:
            self.abort_some()
        return Arrivals.proceed(self)

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
            # In the socket form the application may keep calls for ever, without any work that could end.
            for index, call in enumerate(self.incoming.entries(), 1):
                call.end()
                if index % LEFT_AT_ONCE == 0:
                    yield
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
