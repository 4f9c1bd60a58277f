"""The input of one connection: what was received is parsed and handled, in turns, and reading is paused."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t

from sockrpc._debug cimport DEBUG, free_isolated, isolate
from sockrpc.websocket.liveness cimport resume
from sockrpc.websocket.loop cimport FAIR_SHARE
from sockrpc.websocket.output cimport Output
from sockrpc.websocket.parser cimport (
    EVENT_BINARY, EVENT_CLOSE, EVENT_COMPRESSED_BINARY, EVENT_COMPRESSED_TEXT, EVENT_FAULT, EVENT_NEED_DATA,
    EVENT_PING, EVENT_TEXT, utf8_fault, utf8_prefix,
)

from sockrpc.errors import ProtocolError

cdef enum:
    # Full receive buffers before other connections get their turn: while they are full, libuv reads 32 of them in
    # one iteration, which may hold a million frames.
    FULL_READS_AT_ONCE = 4


cdef class Input(Output):
    """The reading side of a connection."""

    # The methods of a role

    cdef int on_message(self, const uint8_t *data, Py_ssize_t size) except -1:
        raise NotImplementedError

    cdef int on_text(self, const uint8_t *data, Py_ssize_t size) except -1:
        raise NotImplementedError

    cdef int on_ignored(self, const uint8_t *data, Py_ssize_t size) except -1:
        return 0

    # The methods of a connection

    cdef int send_pong(self, bytes payload) except -1:
        raise NotImplementedError

    cdef int answer_close(self) except -1:
        raise NotImplementedError

    cdef int fail(self, int code, str reason) except -1:
        raise NotImplementedError

    # Parsing, and its pauses

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
            self.call_transport("pause_reading")
        else:
            self.call_transport("resume_reading")
            resume(&self.liveness, self.context.loop.time())
        return 0

    cdef int restart_parsing(self) except -1:
        # The caller may be deep inside a handler of this very connection.
        if self.parsing_stopped:
            self.parsing_stopped = False
            self.yielded = True
            self.context.postpone(self)

    cdef int proceed(self) except -1:
        if self.yielded:
            self.yielded = False
            if self.state == STATE_OPEN or self.state == STATE_CLOSING:
                self.context.tick()
                self.feed()
        return 0
