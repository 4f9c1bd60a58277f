"""WebSocket framing (RFC 6455): bytes in, whole messages out; headers and close payloads of what goes out.

Nothing here interprets messages, does I/O or reads a clock.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.ref cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8, PyUnicode_DecodeUTF8Stateful
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, memmove

from sockrpc._debug cimport DEBUG, count_created, count_freed
from sockrpc.websocket.masking cimport apply_mask, mask_into
from sockrpc.websocket.buffers cimport buffer_append, buffer_free, buffer_reserve, spares_give, spares_take

from sockrpc.errors import UsageError

cdef Py_ssize_t DEFAULT_MAX_MESSAGE_BYTES = 16 * 1024 * 1024

cdef enum:
    # How much a compressed message may exceed the limit, in addition to a share of the limit.
    COMPRESSED_SLACK_BYTES = 1024


cdef Py_ssize_t write_header(uint8_t *out, uint8_t opcode, Py_ssize_t size, const uint8_t *mask) noexcept nogil:
    cdef uint8_t mask_bit = 0x80 if mask != NULL else 0
    cdef Py_ssize_t n
    cdef int i
    out[0] = 0x80 | opcode
    if size < 126:
        out[1] = mask_bit | <uint8_t> size
        n = 2
    elif size < 65536:
        out[1] = mask_bit | 126
        out[2] = <uint8_t> (size >> 8)
        out[3] = <uint8_t> size
        n = 4
    else:
        out[1] = mask_bit | 127
        for i in range(8):
            out[2 + i] = <uint8_t> (<uint64_t> size >> (56 - 8 * i))
        n = 10
    if mask != NULL:
        memcpy(out + n, mask, 4)
        n += 4
    return n


cdef bint is_sendable_code(int code) noexcept:
    # RFC 6455 7.4.1 and 7.4.2, with the codes that IANA has registered since (1012 to 1014).
    return (1000 <= code <= 1003) or (1007 <= code <= 1014) or (3000 <= code <= 4999)


cdef Py_ssize_t utf8_prefix(const uint8_t *data, Py_ssize_t size, bint whole) except -2:
    cdef Py_ssize_t valid = size
    try:
        PyUnicode_DecodeUTF8Stateful(<const char *> data, size, NULL, NULL if whole else &valid)
    except UnicodeDecodeError:
        return -1
    return valid


cdef str utf8_fault():
    return "text message is not UTF-8"


cdef bytes close_payload(int code, str reason):
    cdef bytes text
    if not is_sendable_code(code):
        raise UsageError(f"{code} is not a close code that may be sent (RFC 6455 section 7.4)")
    text = reason.encode()
    if len(text) > MAX_CONTROL_BYTES - 2:
        # Cut at a character boundary, because a reason must stay UTF-8.
        text = text[:MAX_CONTROL_BYTES - 2].decode(errors="ignore").encode()
    return code.to_bytes(2, "big") + text


@cython.final
cdef class Parser:
    """Turns received bytes into WebSocket events, in place.

    Args:
        role: "server" or "client", the role of the receiver.
        max_message_bytes: The largest message, reassembled; a larger one is a fault (1009).
        compression: Let compressed messages through (RFC 7692); they come out compressed.
    """

    def __cinit__(
        self, str role, Py_ssize_t max_message_bytes=DEFAULT_MAX_MESSAGE_BYTES, *, bint compression=False
    ):
        if DEBUG:
            count_created(<PyObject *> self)
        if role not in ("server", "client"):
            raise ValueError(f"role is 'server' or 'client', not {role!r}")
        self.role = ROLE_SERVER if role == "server" else ROLE_CLIENT
        self.max_message_bytes = max_message_bytes
        self.compression = compression
        self.close_reason = ""

    def __dealloc__(self):
        if DEBUG:
            count_freed(<PyObject *> self)
        buffer_free(&self.message)
        buffer_free(&self.tail)

    cdef void release(self) noexcept:
        self.dead = True
        self.cursor = self.end = NULL
        self.missing = 0
        buffer_free(&self.message)
        buffer_free(&self.tail)
        self.tail_is_large = False

    cdef int fault(self, int code, str reason) noexcept:
        self.dead = True
        self.close_code = code
        self.close_reason = reason
        self.cursor = self.end
        self.data = NULL
        self.size = 0
        return EVENT_FAULT

    cdef int offer(self, uint8_t *data, Py_ssize_t size) except -1:
        if self.dead:
            return 0
        if DEBUG:
            # Every other read is parsed in a block of its own, so that AddressSanitizer sees its edges.
            self.isolated = not self.isolated
        if self.tail.size or self.isolated:
            buffer_append(&self.tail, data, size)
            self.cursor = self.tail.data
            self.end = self.tail.data + self.tail.size
            self.window_is_tail = True
        else:
            self.cursor = data
            self.end = data + size
            self.window_is_tail = False
        return 0

    cdef uint8_t *reserve(self, Py_ssize_t size) except NULL:
        buffer_reserve(&self.tail, size)
        # The tail may have moved, and the connection may be lost before anything is received into it.
        self.cursor = self.tail.data
        self.end = self.tail.data + self.tail.size
        self.window_is_tail = True
        return self.end

    cdef int received(self, Py_ssize_t size) except -1:
        # This catches a caller that writes more than it reserved.
        if size < 0 or self.tail.size + size > self.tail.capacity:
            raise ValueError("more bytes received than reserved")
        self.tail.size += size
        self.cursor = self.tail.data
        self.end = self.tail.data + self.tail.size
        self.window_is_tail = True
        return 0

    cdef int keep(self) except -1:
        cdef Py_ssize_t rest = self.end - self.cursor
        if (self.dead or not self.message_opcode) and self.message.data != NULL:
            buffer_free(&self.message)
        if self.dead or rest == 0:
            if self.tail.data == NULL:
                pass
            elif self.tail_is_large:
                self.tail_is_large = False
                spares_give(self.spares, &self.tail)
            else:
                buffer_free(&self.tail)
        elif self.window_is_tail:
            if self.cursor != self.tail.data:
                memmove(self.tail.data, self.cursor, rest)
            self.tail.size = rest
        else:
            # This skips the remains of a flood of small frames, which are never large for long.
            self.tail_is_large = self.missing >= LARGE_FRAME_BYTES and self.spares != NULL
            if self.tail_is_large:
                spares_take(self.spares, &self.tail)
            buffer_append(&self.tail, self.cursor, rest)
        if rest and not self.dead:
            self.cursor = self.tail.data
            self.end = self.tail.data + self.tail.size
        else:
            self.cursor = self.end = NULL
        self.window_is_tail = True
        return 0

    # Every access stays below `end` because each branch first compares `available` with the bytes it reads.
    cdef int next(self) except -1:
        cdef Py_ssize_t available
        cdef Py_ssize_t header
        cdef uint64_t length
        cdef uint8_t first
        cdef uint8_t second
        cdef uint8_t opcode
        cdef uint8_t *mask
        cdef uint8_t *payload
        cdef int i

        while True:
            available = self.end - self.cursor
            if self.dead or available < 2:
                self.missing = 0
                return EVENT_NEED_DATA
            first = self.cursor[0]
            second = self.cursor[1]
            opcode = first & 0x0F
            if first & 0x70:
                # RFC 7692 6: the first frame of a message may have the first of these bits, if that was agreed on.
                if not self.compression or first & 0x30 or opcode == OPCODE_CONTINUATION or opcode & 0x08:
                    return self.fault(1002, "reserved bits set")
            if (second & 0x80 != 0) != (self.role == ROLE_SERVER):
                return self.fault(1002, "unmasked frame" if self.role == ROLE_SERVER else "masked frame")

            length = second & 0x7F
            header = 2
            if opcode & 0x08:
                if opcode > OPCODE_PONG:
                    return self.fault(1002, "reserved opcode")
                if not first & 0x80:
                    return self.fault(1002, "fragmented control frame")
                if length > MAX_CONTROL_BYTES:
                    return self.fault(1002, "control frame too long")
            else:
                if opcode > OPCODE_BINARY:
                    return self.fault(1002, "reserved opcode")
                if opcode == OPCODE_CONTINUATION:
                    if not self.message_opcode:
                        return self.fault(1002, "continuation without a message")
                elif self.message_opcode:
                    return self.fault(1002, "message inside a fragmented message")
                if length == 126:
                    if available < 4:
                        self.missing = 0
                        return EVENT_NEED_DATA
                    length = (<uint64_t> self.cursor[2] << 8) | self.cursor[3]
                    header = 4
                elif length == 127:
                    if available < 10:
                        self.missing = 0
                        return EVENT_NEED_DATA
                    length = 0
                    for i in range(8):
                        length = (length << 8) | self.cursor[2 + i]
                    header = 10
                # Compare before any of the payload is kept, and without adding to `length`, which could overflow.
                if (
                    length > <uint64_t> max(self.max_message_bytes - self.message.size, 0)
                    and not self.has_room(first, length)
                ):
                    return self.fault(1009, f"message over {self.max_message_bytes} bytes")

            mask = self.cursor + header
            if self.role == ROLE_SERVER:
                header += 4
            if available - header < <Py_ssize_t> length:
                self.missing = header + <Py_ssize_t> length - available
                return EVENT_NEED_DATA
            payload = self.cursor + header
            self.cursor = payload + length
            self.masked = NULL
            if self.role == ROLE_SERVER:
                if length >= LATE_MASK_BYTES and first == 0x80 | OPCODE_BINARY:
                    self.masked = payload + CLEAR_BYTES
                    memcpy(self.mask, mask, 4)
                    apply_mask(payload, CLEAR_BYTES, mask)
                else:
                    apply_mask(payload, <Py_ssize_t> length, mask)

            self.data = payload
            self.size = <Py_ssize_t> length
            if opcode & 0x08:
                if opcode == OPCODE_PING:
                    return EVENT_PING
                if opcode == OPCODE_PONG:
                    return EVENT_PONG
                return self.closing()
            if first == 0x80 | OPCODE_BINARY:
                return EVENT_BINARY
            if opcode == OPCODE_CONTINUATION:
                if first & 0x80:
                    return self.reassembled()
            elif not first & 0x80:
                self.message_opcode = opcode
                self.message_compressed = first & RESERVED_1
                self.checked = 0
            elif first & RESERVED_1:
                return EVENT_COMPRESSED_BINARY if opcode == OPCODE_BINARY else EVENT_COMPRESSED_TEXT
            else:
                return self.text(0)
            if self.fragment() == EVENT_FAULT:
                return EVENT_FAULT

    cdef bytes copy_masked(self, const uint8_t *start, Py_ssize_t size):
        cdef bytes copied = PyBytes_FromStringAndSize(NULL, size)
        cdef uint8_t *out = <uint8_t *> PyBytes_AS_STRING(copied)
        cdef Py_ssize_t clear
        cdef uint8_t mask[4]
        cdef int i
        clear = min(max(self.masked - start, 0), size)
        memcpy(out, start, clear)
        for i in range(4):
            mask[i] = self.mask[(start + clear - self.data + i) & 3]
        mask_into(out + clear, start + clear, size - clear, mask)
        return copied

    cdef int unmask(self) except -1:
        if self.masked != NULL:
            # CLEAR_BYTES is a multiple of the mask's length.
            apply_mask(self.masked, self.data + self.size - self.masked, self.mask)
            self.masked = NULL
        return 0

    cdef bint has_room(self, uint8_t first, uint64_t length) noexcept:
        cdef Py_ssize_t most = self.max_message_bytes
        if first & RESERVED_1 or (self.message_opcode and self.message_compressed):
            # Incompressible data grows by at most this much (deflateBound of zlib), and by five bytes for each
            # fragment.
            most += most // 8 + most // 64 + COMPRESSED_SLACK_BYTES
        return length <= <uint64_t> max(most - self.message.size, 0)

    cdef int fragment(self) except -1:
        # `message.size` counts the bytes of fragments, so endless fragments hit the limit; endless empty ones cost
        # the sender a frame each and us nothing.
        cdef Py_ssize_t valid
        buffer_append(&self.message, self.data, self.size)
        if (
            self.message_opcode == OPCODE_TEXT and not self.message_compressed
            and self.message.size > self.checked
        ):
            # Check now, because the rest of a message that is wrong already may never come.
            valid = utf8_prefix(self.message.data + self.checked, self.message.size - self.checked, False)
            if valid < 0:
                return self.fault(1007, utf8_fault())
            self.checked += valid
        return EVENT_NEED_DATA

    cdef int reassembled(self) except -1:
        cdef uint8_t opcode = self.message_opcode
        buffer_append(&self.message, self.data, self.size)
        self.message_opcode = 0
        # An empty message has no memory, and a null pointer must not be read, not even for zero bytes.
        self.data = self.message.data if self.message.size else self.cursor
        self.size = self.message.size
        # The memory stays until `keep` because the caller reads it; only its size is reset.
        self.message.size = 0
        if self.message_compressed:
            return EVENT_COMPRESSED_BINARY if opcode == OPCODE_BINARY else EVENT_COMPRESSED_TEXT
        return EVENT_BINARY if opcode == OPCODE_BINARY else self.text(self.checked)

    cdef int text(self, Py_ssize_t checked) except -1:
        if utf8_prefix(self.data + checked, self.size - checked, True) < 0:
            return self.fault(1007, utf8_fault())
        return EVENT_TEXT

    # The caller has checked that `data` holds `size` bytes, at most MAX_CONTROL_BYTES.
    cdef int closing(self) except -1:
        cdef int code
        if self.size == 0:
            self.close_code = 1005
            self.close_reason = ""
        elif self.size == 1:
            return self.fault(1002, "close frame of one byte")
        else:
            code = (<int> self.data[0] << 8) | self.data[1]
            if not is_sendable_code(code):
                return self.fault(1002, "invalid close code")
            try:
                self.close_reason = PyUnicode_DecodeUTF8(<const char *> self.data + 2, self.size - 2, NULL)
            except UnicodeDecodeError:
                return self.fault(1007, "close reason is not UTF-8")
            self.close_code = code
        self.dead = True
        self.cursor = self.end
        return EVENT_CLOSE
