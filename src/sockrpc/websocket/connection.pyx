"""A connection: a transport joined to the WebSocket level, with a single closing path.

Output is gathered and written once per read or loop iteration. Subclasses give messages their meaning.
"""

cimport cython
from cpython.buffer cimport PyBUF_WRITE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport uint8_t
from libc.string cimport memcpy

import asyncio

from sockrpc._debug cimport DEBUG, free_isolated, isolate
from sockrpc.websocket.loop cimport FAIR_SHARE, RECEIVE_BYTES
from sockrpc.websocket.buffers cimport buffer_free
from sockrpc.websocket.output cimport Output
from sockrpc.websocket.parser cimport (
    EVENT_BINARY, EVENT_CLOSE, EVENT_COMPRESSED_BINARY, EVENT_COMPRESSED_TEXT, EVENT_FAULT, EVENT_NEED_DATA,
    EVENT_PING, EVENT_TEXT, LARGE_FRAME_BYTES, OPCODE_CLOSE, OPCODE_PONG, close_payload, utf8_fault, utf8_prefix,
)

from sockrpc.errors import ConnectionClosed, ConnectionLost, ProtocolError

cdef enum:
    # Large frames are received directly into the parser, without a copy on the way. They are received in steps,
    # because a length alone must not reserve much memory.
    DIRECT_STEP_BYTES = 1024 * 1024
    # Full receive buffers before other connections get their turn: while they are full, libuv reads 32 of them in
    # one iteration, which may hold a million frames.
    FULL_READS_AT_ONCE = 4


cdef class Connection(Output):
    """An asyncio protocol (BufferedProtocol) for one connection."""

    def __cinit__(self, *args, **kwargs):
        self.close_code = 1006
        self.close_reason = ""

    # The methods of a role

    cdef int on_message(self, const uint8_t *data, Py_ssize_t size) except -1:
        raise NotImplementedError

    cdef int on_text(self, const uint8_t *data, Py_ssize_t size) except -1:
        raise NotImplementedError

    cdef int on_ignored(self, const uint8_t *data, Py_ssize_t size) except -1:
        return 0

    cdef int on_end(self) except -1:
        raise NotImplementedError

    cdef int on_lost(self) except -1:
        raise NotImplementedError

    cdef int on_slow(self) except -1:
        return 0

    cdef int on_output_open(self) except -1:
        raise NotImplementedError

    # The methods that the transport calls

    def connection_made(self, transport) -> None:
        """Called by the transport when it is connected; the opening handshake begins."""
        self.transport = transport
        self.parser.spares = &self.context.spares
        # asyncio's own writelines does not call pause_writing (3.12.0 to 3.13.0), or joins the parts.
        self.vectored = not isinstance(transport, asyncio.Transport)
        # Use one less, because a transport pauses above its mark and we pause at ours.
        self.tell("set_write_buffer_limits", (
            # TLS pauses at its mark, so with a mark of 0 it would pause for ever.
            max(self.settings.limits.output_high_bytes - 1, 1),
            min(self.settings.limits.output_low_bytes, max(self.settings.limits.output_high_bytes - 1, 1)),
        ))
        self.last_heard = self.context.loop.time()
        self.deadline = self.last_heard + self.settings.limits.handshake_timeout
        self.context.add(self, self.settings.interval)
        if self.ended:
            # The connection was given up while the transport was being made.
            self.tell("abort")
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
        self.heard = True
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
        self.pinged_at = self.context.loop.time()
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
        self.deadline = 0.0
        self.last_heard = self.context.loop.time()
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

    def give_up_opening(self) -> None:
        """Drop the connection silently after accepting has failed; without TLS success there is no transport."""
        if self.transport is not None:
            self.connection_lost(None)
        elif self.handshake is not None:
            self.handshake.ended()
            self.handshake = None

    def hold_handshake(self, hold: bool) -> None:
        """Stop reading while the application decides on the opening request."""
        if self.transport is not None:
            self.hold_reading(hold)

    # Input

    cdef int feed(self) except -1:
        cdef double seen = self.context.now
        cdef double until = self.turn_until if self.in_turn else seen + FAIR_SHARE
        cdef int event
        self.in_feed = True
        try:
            while not self.parsing_stopped:
                event = self.parser.next()
                if event == EVENT_NEED_DATA:
                    break
                if self.state == STATE_OPEN:
                    if event == EVENT_BINARY:
                        if DEBUG and self.parser.isolated:
                            self.handle_isolated()
                        else:
                            self.on_message(self.parser.data, self.parser.size)
                    else:
                        self.handle_event(event)
                    if self.ran_handler:
                        self.ran_handler = False
                        # An answer may have read the clock already.
                        seen = self.context.now if self.context.now != seen else self.context.tick()
                        if seen >= until:
                            self.yielded = True
                            break
                elif event == EVENT_CLOSE or event == EVENT_FAULT:
                    # These bytes are the answer to our close frame, or no longer matter.
                    self.close_transport()
                elif event == EVENT_BINARY:
                    self.on_ignored(self.parser.data, self.parser.size)
        finally:
            # This holds even if a handler raised SystemExit or KeyboardInterrupt: the parser stays consistent.
            self.in_feed = False
            if self.state == STATE_CLOSED:
                self.parser.release()
            if self.full_reads >= FULL_READS_AT_ONCE:
                self.full_reads = 0
                self.yielded = True
            self.parser.keep()
            self.flush()
            self.settle_reading()
        return 0

    cdef int handle_event(self, int event) except -1:
        if event == EVENT_PING:
            self.send_pong(PyBytes_FromStringAndSize(<char *> self.parser.data, self.parser.size))
        elif event == EVENT_TEXT:
            self.on_text(self.parser.data, self.parser.size)
        elif event == EVENT_COMPRESSED_BINARY or event == EVENT_COMPRESSED_TEXT:
            self.decompress(event == EVENT_COMPRESSED_TEXT)
        elif event == EVENT_CLOSE:
            self.answer_close()
        elif event == EVENT_FAULT:
            self.fail(self.parser.close_code, self.parser.close_reason)
        return 0

    cdef int decompress(self, bint is_text) except -1:
        cdef bytes message = PyBytes_FromStringAndSize(<char *> self.parser.data, self.parser.size)
        cdef const uint8_t *data
        # A few bytes may inflate to all of `max_message_bytes`, which takes longer than most handlers.
        self.ran_handler = True
        try:
            message = self.compression.decompress(message, self.settings.limits.max_message_bytes)
        except ProtocolError as error:
            return self.fail(error.code, error.reason)
        data = <const uint8_t *> PyBytes_AS_STRING(message)
        if not is_text:
            return self.on_message(data, PyBytes_GET_SIZE(message))
        if utf8_prefix(data, PyBytes_GET_SIZE(message), True) < 0:
            return self.fail(1007, utf8_fault())
        return self.on_text(data, PyBytes_GET_SIZE(message))

    cdef int handle_isolated(self) except -1:
        # A block of its own lets a sanitizer catch reads beyond the message, or after it has been handled.
        cdef Py_ssize_t size = self.parser.size
        cdef const uint8_t *data
        self.parser.unmask()
        data = isolate(self.parser.data, size)
        try:
            return self.on_message(data, size)
        finally:
            free_isolated(data)  # pragma: no trace

    cdef int settle_reading(self) except -1:
        # Nothing is read while earlier input waits to be parsed: at most one receive buffer is kept that way.
        if self.state == STATE_CLOSED or self.transport is None:
            return 0
        if self.state == STATE_CLOSING:
            # The peer's close frame may stand in bytes that were read already, with nothing behind it.
            self.yielded = self.yielded or self.parsing_stopped
            self.parsing_stopped = False
        self.hold_reading(self.parsing_stopped or self.yielded)
        if self.yielded:
            self.context.postpone(self)
        return 0

    cdef int hold_reading(self, bint hold) except -1:
        if hold == self.reading_held or self.transport.is_closing():
            return 0
        self.reading_held = hold
        if hold:
            self.looked_at = False
            self.context.watch(self)
            self.tell("pause_reading")
        else:
            self.tell("resume_reading")
            # No byte could be heard during the pause.
            self.last_heard = self.context.loop.time()
            self.awaiting_pong = False
            self.reading_stalled_since = 0.0
        return 0

    cdef int restart_parsing(self) except -1:
        # The caller may be deep inside a handler of this very connection.
        if self.parsing_stopped:
            self.parsing_stopped, self.yielded = False, True
            self.context.postpone(self)

    cdef int proceed(self) except -1:
        if self.yielded:
            self.yielded = False
            if self.state == STATE_OPEN or self.state == STATE_CLOSING:
                self.context.tick()
                self.feed()
        return 0

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
                # The first sweep determines how much output is still here.
                self.left_mark = -1
                self.deadline = self.context.loop.time() + self.settings.limits.close_timeout
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
        if self.transport is not None and not self.transport.is_closing() and self.tell("can_write_eof"):
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
        self.tell("abort")
        return 0

    cdef int close_transport(self) except -1:
        # Close only once: asyncio's TLS transport breaks when it is closed a second time.
        if self.transport is not None and not self.transport.is_closing():
            self.tell("close")
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
