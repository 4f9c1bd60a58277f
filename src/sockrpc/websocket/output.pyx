"""The output of one connection: gathered frames, and what the transport has not sent yet."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcpy

from sockrpc.websocket.line cimport acknowledged, unacknowledged
from sockrpc.websocket.loop cimport LoopContext, Member
from sockrpc.websocket.masking cimport apply_mask, fresh_mask
from sockrpc.websocket.buffers cimport Buffer, buffer_append, buffer_free, buffer_reserve
from sockrpc.websocket.parser cimport MAX_HEADER_BYTES, OPCODE_BINARY, RESERVED_1, write_header

# Raised by methods of transports whose socket is dead: OSError by asyncio's (ENOTCONN by write_eof),
# RuntimeError by uvloop's, AttributeError by those of TLS and by uvloop's get_extra_info.
cdef tuple DEAD_LINE = (OSError, RuntimeError, AttributeError)

cdef enum:
    # From here on a copy costs more than a second vector in the write.
    LARGE_PAYLOAD_BYTES = 16 * 1024
    # An output buffer up to this size is lent to the next connection instead of being freed.
    SPARE_OUTPUT_BYTES = 1024 * 1024


cdef class Output(Member):
    """The writing side of a connection. A server's frames are plain, a client's are masked."""

    def __dealloc__(self):
        buffer_free(&self.output)

    cdef int send(self, const uint8_t *prefix, Py_ssize_t prefix_size, bytes payload) except -1:
        cdef Py_ssize_t payload_size = PyBytes_GET_SIZE(payload)
        cdef Py_ssize_t size = prefix_size + payload_size
        cdef bint apart = payload_size >= LARGE_PAYLOAD_BYTES and not self.masks
        cdef uint8_t mask[4]
        cdef uint8_t *out
        cdef Py_ssize_t n
        if self.compression is not None:
            return self.send_joined(prefix, prefix_size, payload)
        if self.output.data == NULL and self.context.spare_output.data != NULL:
            self.output = self.context.spare_output
            self.context.spare_output.data = NULL
            self.context.spare_output.capacity = 0
        buffer_reserve(&self.output, MAX_HEADER_BYTES + prefix_size + (0 if apart else payload_size))
        out = self.output.data + self.output.size
        if self.masks:
            fresh_mask(mask)
            n = write_header(out, OPCODE_BINARY, size, mask)
        else:
            n = write_header(out, OPCODE_BINARY, size, NULL)
        memcpy(out + n, prefix, prefix_size)
        if apart:
            self.output.size += n + prefix_size
            return self.send_large(payload)
        memcpy(out + n + prefix_size, PyBytes_AS_STRING(payload), payload_size)
        if self.masks:
            apply_mask(out + n, size, mask)
        self.output.size += n + size
        # The transport decides whether this is too much; it calls pause_writing if it is. Not the role's
        # own flush, which may be what calls this.
        if self.output.size + self.buffered_bytes >= self.settings.limits.output_high_bytes:
            Output.flush(self)
        return 0

    cdef int send_plain(self, const uint8_t *prefix, Py_ssize_t prefix_size, bytes payload) except -1:
        self.send_control(OPCODE_BINARY, PyBytes_FromStringAndSize(<char *> prefix, prefix_size) + payload)
        if self.output.size + self.buffered_bytes >= self.settings.limits.output_high_bytes:
            Output.flush(self)
        return 0

    cdef int send_large(self, bytes payload) except -1:
        # Header and payload go out as a vector; the payload is not copied.
        cdef bytes head = self.take_output()
        if self.transport is None or self.transport.is_closing():
            return 0
        self.written_bytes += PyBytes_GET_SIZE(head) + PyBytes_GET_SIZE(payload)
        try:
            if self.vectored:
                self.transport.writelines((head, payload))
            else:
                self.transport.write(head)
                self.transport.write(payload)
            self.count_written(PyBytes_GET_SIZE(head) + PyBytes_GET_SIZE(payload))
        except DEAD_LINE:
            # The handle was closed under us; connection_lost is on its way.
            pass
        except BaseException:  # pragma: no memory
            # No memory: part of a frame may have been written, and what follows would be read as its rest.
            self.transport.abort()  # pragma: no memory
            raise  # pragma: no memory
        return 0

    cdef int send_joined(self, const uint8_t *prefix, Py_ssize_t prefix_size, bytes payload) except -1:
        return self.send_message(OPCODE_BINARY, PyBytes_FromStringAndSize(<char *> prefix, prefix_size) + payload)

    cdef int send_message(self, uint8_t opcode, bytes message) except -1:
        cdef Py_ssize_t size
        cdef uint8_t header[MAX_HEADER_BYTES]
        cdef Py_ssize_t n
        if self.compression is not None:
            message = self.compression.compress(message)
            opcode |= RESERVED_1
        size = PyBytes_GET_SIZE(message)
        if size < LARGE_PAYLOAD_BYTES or self.masks:
            self.send_control(opcode, message)
            if self.output.size + self.buffered_bytes >= self.settings.limits.output_high_bytes:
                Output.flush(self)
            return 0
        n = write_header(header, opcode, size, NULL)
        buffer_append(&self.output, header, n)
        return self.send_large(message)

    cdef int append_frame(self, bytes frame) except -1:
        cdef Py_ssize_t size = PyBytes_GET_SIZE(frame)
        if size >= LARGE_PAYLOAD_BYTES:
            # Write it without a copy, because many connections may share it.
            Output.flush(self)
            return self.give_to_transport(frame)
        buffer_append(&self.output, <const uint8_t *> PyBytes_AS_STRING(frame), size)
        if self.output.size + self.buffered_bytes >= self.settings.limits.output_high_bytes:
            Output.flush(self)
        return 0

    cdef int send_control(self, uint8_t opcode, bytes payload) except -1:
        cdef Py_ssize_t size = PyBytes_GET_SIZE(payload)
        cdef uint8_t mask[4]
        cdef uint8_t *out
        cdef Py_ssize_t n
        buffer_reserve(&self.output, MAX_HEADER_BYTES + size)
        out = self.output.data + self.output.size
        if self.masks:
            fresh_mask(mask)
        n = write_header(out, opcode, size, mask if self.masks else NULL)
        memcpy(out + n, PyBytes_AS_STRING(payload), size)
        if self.masks:
            apply_mask(out + n, size, mask)
        self.output.size += n + size
        return 0

    cdef bytes take_output(self):
        cdef bytes data = PyBytes_FromStringAndSize(<char *> self.output.data, self.output.size)
        self.output.size = 0
        if self.context.spare_output.data == NULL and self.output.capacity <= SPARE_OUTPUT_BYTES:
            self.context.spare_output = self.output
            self.output.data = NULL
            self.output.capacity = 0
        else:
            buffer_free(&self.output)
        return data

    cdef int count_written(self, Py_ssize_t size) except -1:
        # An upper bound, so the transport need not be asked after each write.
        self.buffered_bytes += size
        if 2 * self.buffered_bytes >= self.settings.limits.output_high_bytes:
            self.buffered_bytes = self.transport.get_write_buffer_size()
        return 0

    cdef int give_to_transport(self, bytes data) except -1:
        if self.transport is None or self.transport.is_closing():
            return 0
        self.written_bytes += PyBytes_GET_SIZE(data)
        try:
            self.transport.write(data)
            self.count_written(PyBytes_GET_SIZE(data))
        except DEAD_LINE:
            # The handle was closed under us; connection_lost is on its way.
            pass
        except BaseException:  # pragma: no memory
            # No memory: part of a frame may have been written, and what follows would be read as its rest.
            self.transport.abort()  # pragma: no memory
            raise  # pragma: no memory
        return 0

    cdef int flush(self) except -1:
        if self.output.size:
            self.give_to_transport(self.take_output())
        return 0

    cdef Py_ssize_t unsent(self) except -1:
        if self.transport is None:
            return 0
        return self.output.size + <Py_ssize_t> self.transport.get_write_buffer_size()

    @property
    def is_compressed(self) -> bool:
        """True if messages are compressed."""
        return self.compression is not None

    cdef object call_transport(self, str method, tuple arguments=()):
        if self.transport is None:
            return None
        try:
            # asyncio keeps the context that resume_reading runs in for all reads to come, and the one that close
            # runs in for connection_lost: it must not be a handler's.
            return self.context.variables.copy().run(getattr(self.transport, method), *arguments)
        except DEAD_LINE:
            # connection_lost is on its way and reports it.
            return None

    cdef int end_output(self) except -1:
        # Wait while output is unsent: the loop would call shutdown later by itself, and nothing would catch what that
        # raises on a dead connection. A sweep calls this again.
        self.fin_is_due = self.transport is not None and self.transport.get_write_buffer_size() > 0
        if not self.fin_is_due and self.call_transport("can_write_eof"):
            self.call_transport("write_eof")
        return 0

    cdef int close_transport(self) except -1:
        # Close only once: asyncio's TLS transport breaks when it is closed a second time.
        if self.transport is not None and not self.transport.is_closing():
            self.call_transport("close")
        return 0

    cdef int descriptor(self) except -2:
        cdef object line = self.call_transport("get_extra_info", ("socket",))
        return -1 if line is None else line.fileno()

    cdef int64_t left_bytes(self) except? -1:
        # Through TLS it is an estimate: the system counts what was encrypted.
        return (
            <int64_t> self.written_bytes - <Py_ssize_t> self.transport.get_write_buffer_size()
            - unacknowledged(self.descriptor())
        )

    cdef int64_t moved_bytes(self, int64_t left) except? -1:
        # `left_bytes`, passed as `left`, is not enough for TLS: its transports do not count what they have encrypted
        # and not written, so `left` stands still while that goes out.
        cdef int64_t number = acknowledged(self.descriptor())
        return left if number < 0 else number

    def extra_info(self, name: str) -> object:
        """Return what the transport knows by this name, or None if it knows nothing or is gone."""
        return self.call_transport("get_extra_info", (name,))

    def is_writable(self) -> bool:
        """False while output is above the high-water mark."""
        return not self.write_paused

    @property
    def output_max_bytes(self) -> int:
        """The limit, in bytes."""
        return self.settings.limits.output_max_bytes

    def is_full(self) -> bool:
        """True while the unsent output is above `output_max_bytes`."""
        return self.write_paused and self.unsent() > self.settings.limits.output_max_bytes
