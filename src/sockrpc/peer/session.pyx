"""How the two ends of a connection meet and part in `sockrpc.v1`: Hello, Goaway, Ping and Pong."""

from cpython.bytes cimport PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t

import asyncio
from collections import deque

from sockrpc._frames cimport (
    HELLO_BYTES, OPCODE_KEEPALIVE_PING, OPCODE_KEEPALIVE_PONG, Frame, receiver_of, write_goaway,
    write_hello,
)
from sockrpc.peer.states cimport life_of
from sockrpc.websocket.connection cimport Connection
from sockrpc.websocket.input cimport STATE_OPEN

from sockrpc._frames import PROTOCOL_V0 as _PROTOCOL_V0
from sockrpc._frames import PROTOCOL_V1 as _PROTOCOL_V1
from sockrpc.peer.metadata import MAX_ENTRIES as _MAX_ENTRIES
from sockrpc.peer.metadata import MAX_METADATA_BYTES as _MAX_METADATA_BYTES
from sockrpc.peer.metadata import decode

cdef enum:
    LONGEST_PARTING = 1024           # characters of a Goaway's message that are kept

cdef double LONGEST_GRACE = 4_294_967.295    # seconds; it fits the field


cdef class Session(Connection):
    """A connection whose two ends have agreed on a protocol."""

    def __cinit__(self, *args, **kwargs):
        self.their_calls = FIRST_CALLS
        self.their_window = FIRST_WINDOW
        self.their_message_bytes = FIRST_MESSAGE_BYTES
        self.said = b""

    cdef int on_greeted(self, object metadata) except -1:
        raise NotImplementedError

    cdef int on_peer_leaves(self) except -1:
        raise NotImplementedError

    cdef int on_calls_over(self) except -1:
        raise NotImplementedError

    cdef int widen(self, int64_t bytes) except -1:
        raise NotImplementedError

    def speak(self, protocol: str) -> None:
        """Speak a protocol, as the opening handshake has agreed; in v1 this end says Hello.

        Args:
            protocol: The subprotocol.
        """
        self.set_protocol(protocol)
        if self.is_v1:
            self.say_hello()
            self.hello_timer = self.context.loop.call_later(
                self.settings.limits.handshake_timeout, self._no_hello, context=self.callback_context())

    @property
    def subprotocol(self) -> str:
        """The protocol that both ends speak."""
        return _PROTOCOL_V1 if self.is_v1 else _PROTOCOL_V0

    def set_protocol(self, protocol: str) -> None:
        """Choose the rows for a protocol."""
        self.is_v1 = protocol == _PROTOCOL_V1
        self.life = life_of(protocol)
        self.receiver = receiver_of(protocol, self.receiver.role)

    def set_metadata(self, metadata: bytes) -> None:
        """Set the metadata that goes with our Hello, in its form on the wire."""
        self.said = metadata

    cdef object callback_context(self):
        # All callbacks share one context, or each would keep a copy of the current one. It must not be the current
        # one: that may be a handler's, and tasks started in a callback must not see its variables.
        if self.callbacks is None:
            self.callbacks = self.context.variables.copy()
        return self.callbacks

    # Hello

    cdef int say_hello(self) except -1:
        cdef uint8_t prefix[HELLO_BYTES]
        self.window = min(max(self.settings.limits.window_bytes, FIRST_WINDOW), LARGEST_WINDOW)
        write_hello(
            prefix, <uint32_t> min(self.settings.limits.max_calls, 0xFFFFFFFF),
            <uint32_t> self.window, <uint32_t> min(self.settings.limits.max_message_bytes, 0xFFFFFFFF))
        # It may hold a token, which compression together with text of others would give away (CRIME).
        self.send_plain(prefix, HELLO_BYTES, self.said)
        return self.flush()

    def _no_hello(self) -> None:
        self.hello_timer = None
        if not self.greeted and not self.ended:
            self.fail(1002, "no hello")

    cdef int take_hello(self, Frame *frame) except -1:
        cdef int64_t before = self.their_window
        if self.greeted:
            return self.fail(1002, "a second hello")
        if frame.payload_size > <Py_ssize_t> _MAX_METADATA_BYTES:
            return self.fail(1002, "more metadata in a hello than 16 KiB")
        metadata = decode(PyBytes_FromStringAndSize(<const char *> frame.payload, frame.payload_size))
        if metadata is None:
            return self.fail(1002, "metadata that does not parse")
        if len(metadata) > _MAX_ENTRIES:
            return self.fail(1002, "more metadata in a hello than 64 entries")
        self.greeted = True
        self.stop_hello_timer()
        self.their_calls = frame.numbers[0]
        self.their_window = min(max(frame.numbers[1], FIRST_WINDOW), LARGEST_WINDOW)
        self.their_message_bytes = frame.numbers[2]
        if self.their_window > before:
            self.widen(self.their_window - before)
        if self.greeting is not None and not self.greeting.done():
            self.greeting.set_result(None)
        return self.on_greeted(metadata)

    def stop_hello_timer(self) -> None:
        """Stop to wait for the peer's Hello."""
        timer, self.hello_timer = self.hello_timer, None
        if timer is not None:
            timer.cancel()

    def wait_greeted(self):
        """Return a future that is done when the peer's Hello has come; it fails if the connection ends first."""
        if self.greeting is None:
            self.greeting = self.context.loop.create_future()
            if self.greeted:
                self.greeting.set_result(None)
            elif self.ended:
                self.greeting.set_exception(self.error())
        return self.greeting

    # Keepalive, which pages cannot do with WebSocket's own pings

    cdef bint may_answer_keepalive(self) noexcept:
        return not self.write_paused

    cdef int on_keepalive_ping(self, Frame *frame) except -1:
        # A peer may send nothing else, so it takes its turns like one whose calls run.
        self.ran_handler = True
        self.pending_keepalive = PyBytes_FromStringAndSize(<const char *> frame.payload, frame.payload_size)
        if self.may_answer_keepalive():
            self.send_keepalive_pong()
        return 0

    cdef int send_keepalive_pong(self) except -1:
        cdef uint8_t opcode = OPCODE_KEEPALIVE_PONG
        cdef bytes payload = self.pending_keepalive
        if payload is not None and not self.ended:
            self.pending_keepalive = None
            self.send(&opcode, 1, payload)
            self.write_soon(False)
        return 0

    cdef int on_keepalive_pong(self, Frame *frame) except -1:
        self.ran_handler = True
        if self.pongs:
            waiter = self.pongs.popleft()
            if not waiter.done():
                waiter.set_result(None)
        return 0

    def ping_peer(self) -> asyncio.Future[None]:
        """Send a Ping of the protocol; the returned future is done when its Pong has come."""
        cdef uint8_t opcode = OPCODE_KEEPALIVE_PING
        waiter = self.context.loop.create_future()
        if self.ended:
            # The end may have come in the read that brought the peer's Hello.
            waiter.set_exception(self.error())
            return waiter
        if self.pongs is None:
            self.pongs = deque()
        self.pongs.append(waiter)
        self.send(&opcode, 1, b"")
        self.flush()
        return waiter

    # Parting

    cdef int on_goaway(self, Frame *frame) except -1:
        self.ran_handler = True
        try:
            # It is kept, so it is cut: a peer may send as much as fits in a message.
            self.parting_message = PyUnicode_DecodeUTF8(
                <const char *> frame.payload, frame.payload_size, NULL)[:LONGEST_PARTING]
        except UnicodeDecodeError:
            return self.fail(1002, "message is not UTF-8")
        self.parting_code = frame.code
        self.peer_leaves = True
        if frame.numbers[0] == 0:
            self.parted = True
        if self.farewell is not None and not self.farewell.done():
            self.farewell.set_result(None)
        return self.on_peer_leaves()

    def wait_leaving(self):
        """Return a future that is done when the peer takes no more calls, or the connection has ended."""
        if self.farewell is None:
            self.farewell = self.context.loop.create_future()
            if self.peer_leaves or self.ended:
                self.farewell.set_result(None)
        return asyncio.shield(self.farewell)

    cdef int say_goaway(self, int code, double grace, str message) except -1:
        cdef uint8_t prefix[6]
        cdef uint32_t milliseconds = <uint32_t> (min(grace, LONGEST_GRACE) * 1000)
        if self.ended or self.taken_leave or self.state != STATE_OPEN:
            return 0
        self.leaving = True
        self.taken_leave = grace == 0.0
        if not self.taken_leave and milliseconds == 0:
            # 0 would say that this is the end.
            milliseconds = 1
        write_goaway(prefix, <uint8_t> code, milliseconds)
        self.send(prefix, 6, text_within(message, self.their_message_bytes - 6))
        return self.write_soon(True)

    cdef int wake_stalled(self) except -1:
        cdef dict stalled = self.stalled
        if stalled is not None:
            self.stalled = None
            for outbox in stalled:
                outbox.wake_up()
        return 0

    cdef int end_session(self) except -1:
        """Nothing of the session is awaited any more, as the connection has ended."""
        self.stop_hello_timer()
        self.pending_keepalive = None
        if self.farewell is not None and not self.farewell.done():
            self.farewell.set_result(None)
        pongs, self.pongs = self.pongs, None
        for waiter in (self.greeting, *(pongs or ())):
            if waiter is not None and not waiter.done():
                waiter.set_exception(self.error())
                # Its waiter may be gone already.
                waiter.exception()
        return self.wake_stalled()


cdef bytes text_within(str text, Py_ssize_t size):
    # Names of files that are not UTF-8 have surrogates, and end up in messages.
    cdef bytes encoded = text.encode(errors="backslashreplace")
    if PyBytes_GET_SIZE(encoded) > size:
        encoded = encoded[:max(size, 0)].decode(errors="ignore").encode()
    return encoded
