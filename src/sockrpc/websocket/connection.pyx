"""A connection: a transport joined to the WebSocket level, with a single closing path.

Output is gathered and written once per read or loop iteration, and flow control stands here. What is overdue
is decided in liveness.pyx and carried out here; what messages mean is for the subclasses of the two roles.
"""

from cpython.buffer cimport PyBUF_WRITE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport int64_t
from libc.string cimport memcpy

import asyncio

from sockrpc.websocket.buffers cimport buffer_free
from sockrpc.websocket.input cimport STATE_CLOSED, STATE_CLOSING, STATE_CONNECTING, STATE_OPEN, Input
from sockrpc.websocket.line cimport LINE_HAS_BYTES, LINE_HAS_ENDED, LINE_IS_QUIET, LINE_IS_UNKNOWN, look_at_line
from sockrpc.websocket.liveness cimport (
    VERDICT_DOES_NOT_READ, VERDICT_NONE, Facts, Verdict, close_by, hear, judge, needs_left, ping_is_due, pinged,
    verdict_reason, watch,
)
from sockrpc.websocket.loop cimport RECEIVE_BYTES
from sockrpc.websocket.output cimport Output
from sockrpc.websocket.parser cimport LARGE_FRAME_BYTES, OPCODE_CLOSE, OPCODE_PING, OPCODE_PONG, close_payload

from sockrpc.errors import ConnectionClosed, ConnectionLost, ProtocolError
from sockrpc.websocket.line import has_nothing_to_read_but_the_end

# Seconds that a connection may take to send its request when it is refused before that has come.
cdef double LONGEST_REFUSAL = 1.0

cdef enum:
    # Large frames are received directly into the parser, without a copy on the way. They are received in steps,
    # because a length alone must not reserve much memory.
    DIRECT_STEP_BYTES = 1024 * 1024


cdef class Connection(Input):
    """An asyncio protocol (BufferedProtocol) for one connection."""

    def __cinit__(self, *args, **kwargs):
        self.close_code = 1006
        self.close_reason = ""

    # The methods of a role

    cdef int on_end(self) except -1:
        raise NotImplementedError

    cdef int on_lost(self) except -1:
        raise NotImplementedError

    cdef int on_slow(self) except -1:
        return 0

    cdef int on_output_open(self) except -1:
        raise NotImplementedError

    cdef bint has_grace(self) except -1:
        return False

    # The methods that the transport calls

    def connection_made(self, transport) -> None:
        """Called by the transport when it is connected; the opening handshake begins."""
        self.transport = transport
        self.parser.spares = &self.context.spares
        # asyncio's own writelines does not call pause_writing (3.12.0 to 3.13.0), or joins the parts.
        self.vectored = not isinstance(transport, asyncio.Transport)
        # Use one less, because a transport pauses above its mark and we pause at ours.
        self.call_transport("set_write_buffer_limits", (
            # TLS pauses at its mark, so with a mark of 0 it would pause for ever.
            max(self.settings.limits.output_high_bytes - 1, 1),
            min(self.settings.limits.output_low_bytes, max(self.settings.limits.output_high_bytes - 1, 1)),
        ))
        self.liveness.last_heard = self.context.loop.time()
        self.liveness.deadline = self.liveness.last_heard + self.settings.limits.handshake_timeout
        self.context.add(self, self.settings.interval)
        if self.ended:
            # The connection was given up while the transport was being made.
            self.call_transport("abort")
        elif self.handshake is not None:
            self.handshake.connected(self)

    def get_buffer(self, sizehint):
        """Called by the transport for memory to receive into."""
        cdef Py_ssize_t room
        if self.state == STATE_OPEN and self.parser.missing >= LARGE_FRAME_BYTES and not self.reading_held:
            room = min(self.parser.missing, DIRECT_STEP_BYTES)
            self.receiving_directly = True
            return PyMemoryView_FromMemory(<char *> self.parser.reserve(room), room, PyBUF_WRITE)
        self.receiving_directly = False
        return self.context.receive_view

    def buffer_updated(self, Py_ssize_t size) -> None:
        """Called by the transport when `size` bytes were received."""
        self.liveness.heard = True
        self.read_bytes += size
        if self.state == STATE_CONNECTING:
            # The handshake may end the connection, or open it, before it returns.
            self.handshake.receive(PyBytes_FromStringAndSize(<char *> self.context.receive_data, size))
            return
        if self.state == STATE_CLOSED:
            return
        if self.refused:
            self.unread -= size
            if self.unread <= 0:
                self.close_transport()
            return
        self.read_at = self.context.tick()
        if self.receiving_directly:
            self.receiving_directly = False
            self.parser.received(size)
        else:
            self.parser.offer(self.context.receive_data, size)
            self.full_reads = self.full_reads + 1 if size == RECEIVE_BYTES else 0
        if self.parsing_stopped or self.yielded:
            # The transport was executing this read when it was paused.
            self.parser.keep()
        else:
            self.feed()

    def eof_received(self) -> bool:
        """Called by the transport at the peer's FIN, which ends the connection."""
        self.end(False, 1006, "connection closed without a close frame")
        return False

    def connection_lost(self, error) -> None:
        """Called by the transport when it is gone. A second call changes nothing."""
        if self.state == STATE_CLOSED:
            return
        try:
            self.end(False, 1006, "connection lost" if error is None else f"connection lost: {error}")
        finally:
            # End even if there was no memory for the reason, because the loss is reported only once.
            self.end(False, 1006, "connection lost")
            self.state = STATE_CLOSED
            self.transport = None
            self.pending_pong = None
            self.compression = None
            self.yielded = self.parsing_stopped = False
            buffer_free(&self.output)
            self.context.remove(self)
            if self.lost_waiter is not None and not self.lost_waiter.done():
                self.lost_waiter.set_result(None)
            try:
                if not self.in_feed:
                    # This skips bytes that were read and not handled, and releases the parser.
                    self.feed()
            finally:
                self.on_lost()

    def pause_writing(self) -> None:
        """Called by the transport when it holds more than `output_high_bytes`."""
        self.write_paused = True

    def resume_writing(self) -> None:
        """Called by the transport when it holds less than `output_low_bytes`."""
        cdef object waiter = self.drain_waiter
        cdef bytes pong = self.pending_pong
        self.write_paused = False
        # A ping may have stood behind the blocked output; its time begins now.
        self.liveness.pinged_at = self.context.loop.time()
        if pong is not None:
            self.pending_pong = None
            self.send_pong(pong)
        self.flush()
        if self.write_paused:
            return
        if waiter is not None:
            self.drain_waiter = None
            if not waiter.done():
                waiter.set_result(None)
        if not self.ended:
            self.on_output_open()

    # Opening

    def open(self, rest: bytes, compression=None) -> None:
        """Switch to frames after a successful handshake.

        Args:
            rest: The bytes received after the handshake, which are the first frames.
            compression: The agreed compression of messages, or None.
        """
        self.state = STATE_OPEN
        self.compression = compression
        self.parser.compression = compression is not None
        self.handshake = None
        self.liveness.deadline = 0.0
        self.liveness.last_heard = self.context.loop.time()
        if rest:
            # Copy it: the parser unmasks in place, and bytes objects must not change.
            memcpy(self.parser.reserve(PyBytes_GET_SIZE(rest)), PyBytes_AS_STRING(rest), PyBytes_GET_SIZE(rest))
            self.parser.received(PyBytes_GET_SIZE(rest))

    def begin(self) -> None:
        """Handle the frames that came with the opening request, after `open`."""
        if self.state == STATE_OPEN and not self.parsing_stopped:
            self.read_at = self.context.tick()
            self.feed()

    def write_handshake(self, data: bytes) -> None:
        """Write bytes of the opening handshake."""
        self.give_to_transport(data)

    def abort_opening(self) -> None:
        """Drop the connection silently after accepting has failed; without TLS success there is no transport."""
        if self.transport is not None:
            self.connection_lost(None)
        elif self.handshake is not None:
            self.handshake.ended()
            self.handshake = None

    def refuse(self, data: bytes, unread: int = 0, *, early: bool = False) -> None:
        """Write an HTTP response that opens no WebSocket, then close.

        Args:
            unread: At most so many bytes of the request are still awaited, for `close_timeout` at most.
            early: The request has not come, and has a second to come.
        """
        self.hold_handshake(False)
        self.give_to_transport(data)
        self.end(True, 1006, "refused in the opening handshake")
        if not unread:
            self.close_transport()
            return
        # Closing over a request that was not read would send a TCP reset, which could overtake the response.
        self.refused = True
        self.unread = unread
        self.is_brief = early
        if early:
            self.liveness.deadline = min(self.liveness.deadline, self.context.loop.time() + LONGEST_REFUSAL)
        self.end_output()

    def hold_handshake(self, hold: bool) -> None:
        """Stop reading while the application decides on the opening request."""
        if self.transport is not None:
            self.hold_reading(hold)

    # Output

    cdef int send_pong(self, bytes payload) except -1:
        if self.ended:
            return 0
        if self.write_paused:
            # The peer does not read; when it does, it gets the answer to its latest ping.
            self.pending_pong = payload
            return 0
        self.send_control(OPCODE_PONG, payload)
        if not self.in_feed or self.output.size >= self.settings.limits.output_high_bytes:
            self.flush()
        return 0

    cdef int write_soon(self, bint alone) except -1:
        # Inside a feed the write at its end serves all. Otherwise a lone frame goes out at once, and several are
        # gathered until the end of the iteration.
        if self.in_feed:
            return 0
        if alone:
            return self.flush()
        return self.context.schedule_flush(self)

    def drained(self):
        """Return a future that is done when output is below the low-water mark or the connection has ended."""
        if self.drain_waiter is None:
            self.drain_waiter = self.context.loop.create_future()
            if self.ended or not self.write_paused:
                self.drain_waiter.set_result(None)
        return asyncio.shield(self.drain_waiter)

    # Watching

    cdef int sweep(self, double now) except -1:
        cdef Facts facts
        cdef Verdict verdict
        if self.transport is None:
            return 0
        hear(&self.liveness, now)
        facts.has_ended = self.ended
        facts.is_brief = self.is_brief
        facts.has_grace = self.ended and self.has_grace()
        facts.write_paused = self.write_paused
        facts.reading_held = self.reading_held
        facts.parsing_stopped = self.parsing_stopped
        facts.written = <int64_t> self.written_bytes
        facts.left = facts.moved = 0
        if needs_left(&self.liveness, &facts):
            facts.left = self.left_bytes()
            facts.moved = self.moved_bytes(facts.left)
        facts.left_queue = self.left_queue
        watch(&self.liveness, &facts, &self.settings.limits, now)
        if self.fin_is_due:
            self.end_output()
        verdict = judge(&self.liveness, &facts, &self.settings.limits, now)
        if verdict != VERDICT_NONE:
            if verdict == VERDICT_DOES_NOT_READ:
                self.on_slow()
            self.was_given_up = not self.ended
            self.drop(verdict_reason(verdict))
        if self.state == STATE_OPEN and ping_is_due(&self.liveness, &facts, &self.settings.limits, now):
            self.ping(now)
        return 0

    cdef int ping(self, double now) except -1:
        cdef int64_t left = self.left_bytes()
        cdef bint stands_behind = left != <int64_t> self.written_bytes + self.output.size
        self.send_control(OPCODE_PING, b"sockrpc")
        self.flush()
        pinged(&self.liveness, left, <int64_t> self.written_bytes if stands_behind else 0, now)
        return 0

    cdef bint look(self) except -1:
        cdef int descriptor, seen
        if not self.reading_held or self.ended or self.transport is None:
            return False
        if not self.looked_at:
            # Fairness pauses reading for a moment, again and again; at the second look it is no moment any more.
            self.looked_at = True
            return True
        descriptor = self.descriptor()
        seen = LINE_IS_QUIET if descriptor < 0 else look_at_line(descriptor)
        if seen == LINE_IS_UNKNOWN:
            line = self.call_transport("get_extra_info", ("socket",))  # pragma: only windows
            seen = LINE_HAS_ENDED if has_nothing_to_read_but_the_end(line) else LINE_IS_QUIET  # pragma: only windows
        if seen == LINE_HAS_ENDED:
            self.drop("connection lost while reading was paused")
            return False
        if seen == LINE_HAS_BYTES and self.settings.limits.ping_interval and self.context.probes_left > 0:
            # The peer's FIN may stand behind more than the system takes. Where the peer is gone, its system
            # answers whatever comes by a RST.
            self.context.probes_left -= 1
            if self.state == STATE_OPEN and not self.write_paused:
                self.send_control(OPCODE_PING, b"sockrpc")
                self.flush()
        return True

    # Ending

    cdef object error(self):
        if self.ended_by_us:
            if self.peer_is_wrong:
                return ProtocolError(self.close_code, self.close_reason)
            return ConnectionClosed(self.close_code, self.close_reason)
        return ConnectionLost(self.close_code, self.close_reason)

    cdef int end(self, bint by_us, int code, str reason) except -1:
        """End the connection; every ending comes through here, and only the first has an effect."""
        if self.ended:
            return 0
        self.ended = True
        self.ended_by_us = by_us
        self.close_code = code
        self.close_reason = reason
        try:
            if self.state != STATE_CLOSED:
                self.state = STATE_CLOSING
                close_by(&self.liveness, self.context.loop.time() + self.settings.limits.close_timeout)
            if self.handshake is not None:
                self.handshake.ended()
                self.handshake = None
        finally:
            self.on_end()
        if self.drain_waiter is not None and not self.drain_waiter.done():
            self.drain_waiter.set_result(None)
        return 0

    cdef int start_close(self, int code, str reason) except -1:
        """Send a close frame and wait for the peer's, at most `close_timeout`."""
        if self.state == STATE_CONNECTING:
            self.end(True, code, reason)
            return self.close_transport()
        if self.state != STATE_OPEN:
            return 0
        self.send_control(OPCODE_CLOSE, close_payload(code, reason))
        # Avoid the role's own flush: a client's unsent requests must not follow a close frame.
        Output.flush(self)
        self.end(True, code, reason)
        if not self.in_feed:
            self.settle_reading()
        return 0

    cdef int fail(self, int code, str reason) except -1:
        """Close because the peer broke the protocol: send a close frame and ignore everything it still sends."""
        self.peer_is_wrong = not self.ended
        self.start_close(code, reason)
        self.parser.dead = True
        # Wait for the peer's end of file, at most `close_timeout`: closing over unread bytes would send a TCP
        # reset, which could overtake the close frame.
        if self.transport is not None and not self.transport.is_closing() and self.call_transport("can_write_eof"):
            self.end_output()
        else:
            self.close_transport()
        return 0

    cdef int answer_close(self) except -1:
        cdef int code = self.parser.close_code
        self.send_control(OPCODE_CLOSE, b"" if code == 1005 else close_payload(code, ""))
        Output.flush(self)
        self.end(False, code, self.parser.close_reason)
        # RFC 6455 7.1.1: the server closes TCP first; the client waits for it.
        if self.closes_tcp_first:
            self.close_transport()
        return 0

    cdef int drop(self, str reason) except -1:
        """End because the peer does not answer or does not read, so that no close frame would reach it."""
        self.end(False, 1006, reason)
        self.call_transport("abort")
        return 0

    def close(self, code: int, reason: str) -> None:
        """Begin to close; `wait_lost` waits for the end."""
        self.start_close(code, reason)

    def abort(self, reason: str) -> None:
        """End at once, without a close frame."""
        self.drop(reason)

    def wait_lost(self):
        """Return a future that is done when the transport is gone; cancelling it changes nothing."""
        if self.lost_waiter is None:
            self.lost_waiter = self.context.loop.create_future()
            if self.state == STATE_CLOSED:
                self.lost_waiter.set_result(None)
        return asyncio.shield(self.lost_waiter)

    def reason_ended(self) -> Exception:
        """Return the exception to raise, with the reason why the connection carries nothing more."""
        return self.error()

    @property
    def has_ended_by_us(self) -> bool:
        """True if the connection has ended and this side ended it first."""
        return self.ended_by_us

    @property
    def is_open(self) -> bool:
        """True between the opening handshake and the end."""
        return self.state == STATE_OPEN

    @property
    def has_ended(self) -> bool:
        """True once the connection carries nothing more."""
        return self.ended
