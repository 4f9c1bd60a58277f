# The WebSocket level (RFC 6455): frames in, whole messages out; no meaning, no sockets, no clock.

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sockrpc.websocket.buffers cimport Buffer, Spares

cdef enum Role:
    ROLE_SERVER = 0      # receives masked frames, sends unmasked ones
    ROLE_CLIENT = 1

cdef enum Event:
    EVENT_NEED_DATA = 0  # the window holds nothing whole
    EVENT_BINARY = 1     # `data`, `size`: a whole message
    EVENT_TEXT = 2       # the same, checked to be UTF-8
    EVENT_PING = 3       # `data`, `size`: at most 125 bytes
    EVENT_PONG = 4
    EVENT_CLOSE = 5      # `close_code`, `close_reason` as received (1005 if the frame was empty)
    EVENT_FAULT = 6      # `close_code`, `close_reason` to close with; the parser is dead now
    EVENT_COMPRESSED_BINARY = 7  # `data`, `size`: a whole compressed message, which the caller has to
    EVENT_COMPRESSED_TEXT = 8    # decompress, and to check by `utf8_prefix` if it is text

cdef enum:
    OPCODE_CONTINUATION = 0
    OPCODE_TEXT = 1
    OPCODE_BINARY = 2
    OPCODE_CLOSE = 8
    OPCODE_PING = 9
    OPCODE_PONG = 10
    RESERVED_1 = 0x40          # RFC 7692 6: set in the first frame of a compressed message
    MAX_CONTROL_BYTES = 125    # RFC 6455 5.5
    MAX_HEADER_BYTES = 14      # 2 + 8 + 4
    # An incomplete frame is large if at least this many bytes are missing: it deserves reused memory and is
    # received directly into it.
    LARGE_FRAME_BYTES = 64 * 1024
    # A binary message of at least this size is unmasked while it is copied, which saves a pass over it ...
    LATE_MASK_BYTES = 4 * 1024
    # ... except for this many bytes, which identify it: more than an RPC frame has before its payload.
    CLEAR_BYTES = 512

cdef class Parser:
    cdef readonly str close_reason     # the reason of EVENT_CLOSE and EVENT_FAULT
    # Data of the last event, valid until the next call on this parser. After EVENT_BINARY only the first
    # CLEAR_BYTES may be read directly; use `copy_part` for the rest, or call `unmask` first.
    cdef uint8_t *data
    cdef Py_ssize_t size
    cdef readonly int close_code

    cdef Role role
    cdef uint8_t *masked             # start of the part of `data` that is still masked; NULL if there is none
    cdef uint8_t[4] mask             # the mask of that part
    cdef bint dead                   # after a fault or a close frame the rest is ignored
    cdef bint compression            # the connection agreed on an extension that compresses messages
    cdef uint8_t message_opcode      # opcode of the current fragmented message, 0 if there is none
    cdef bint message_compressed     # its first frame had RESERVED_1 set
    cdef Py_ssize_t max_message_bytes
    cdef Buffer message              # payloads of the fragments so far
    cdef Py_ssize_t checked          # length of the prefix of `message` known to be UTF-8, if it is text
    cdef Buffer tail                 # bytes of an incomplete frame, kept between reads
    cdef bint tail_is_large          # it was made for a large frame
    cdef Spares *spares              # source of memory for the tail of a large frame; NULL: the system
    cdef uint8_t *cursor             # start of the window, which holds the unparsed bytes
    cdef uint8_t *end
    cdef bint window_is_tail         # the window lies in `tail`, not in the caller's memory
    cdef bint isolated               # a debug build put the last read there; False in all other builds
    cdef Py_ssize_t missing          # missing bytes of the incomplete frame; 0 if unknown

    # Offers `size` bytes, which the parser may change in place until `keep` is called.
    cdef int offer(self, uint8_t *data, Py_ssize_t size) except -1
    # Returns the next event in the window, a member of Event.
    cdef int next(self) except -1
    # Copies a part of the last message, some of which is masked: see `copy_part`.
    cdef bytes copy_masked(self, const uint8_t *start, Py_ssize_t size)
    # Unmasks all of `data`.
    cdef int unmask(self) except -1
    # Must be called before the offered memory is reused.
    cdef int keep(self) except -1
    # Returns memory to receive the next `size` bytes into (see `received`), never NULL.
    cdef uint8_t *reserve(self, Py_ssize_t size) except NULL
    cdef int received(self, Py_ssize_t size) except -1
    # Frees all memory; nothing more may be offered.
    cdef void release(self) noexcept
    cdef int fault(self, int code, str reason) noexcept
    cdef bint has_room(self, uint8_t first, uint64_t length) noexcept
    cdef int fragment(self) except -1
    cdef int reassembled(self) except -1
    cdef int text(self, Py_ssize_t checked) except -1
    cdef int closing(self) except -1

# Copies a part of the parser's last message, or of other memory if no part of the message is masked.
cdef inline bytes copy_part(Parser parser, const uint8_t *start, Py_ssize_t size):
    if parser.masked != NULL:
        return parser.copy_masked(start, size)
    return PyBytes_FromStringAndSize(<const char *> start, size)

# Writes a header for `size` bytes of payload to `out` (MAX_HEADER_BYTES long) and returns its length. `mask` is
# NULL for an unmasked frame; otherwise its four bytes are written too.
cdef Py_ssize_t write_header(uint8_t *out, uint8_t opcode, Py_ssize_t size, const uint8_t *mask) noexcept nogil
cdef bytes close_payload(int code, str reason)
# Returns the length of the UTF-8 prefix, -1 if `data` is not UTF-8; unless `whole`, it may end inside a character.
cdef Py_ssize_t utf8_prefix(const uint8_t *data, Py_ssize_t size, bint whole) except -2
# Returns the close reason for text that is not UTF-8.
cdef str utf8_fault()
