# The WebSocket level (RFC 6455): frames in, whole messages out; no meaning, no sockets, no clock.

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sockrpc.websocket.buffers cimport Buffer, Spares

cdef enum Role:
    ROLE_SERVER = 0      # receives masked frames, sends unmasked ones
    ROLE_CLIENT = 1

cdef enum Event:
    EVENT_NEED_DATA = 0  # nothing whole is left in the window
    EVENT_BINARY = 1     # `data`, `size`: a whole message
    EVENT_TEXT = 2       # the same, checked to be UTF-8
    EVENT_PING = 3       # `data`, `size`: at most 125 bytes
    EVENT_PONG = 4
    EVENT_CLOSE = 5      # `close_code`, `close_reason` as received (1005 if the frame was empty)
    EVENT_FAULT = 6      # `close_code`, `close_reason`: what to close with; the parser is dead now
    EVENT_COMPRESSED_BINARY = 7  # `data`, `size`: a whole message as the extension left it, still to be
    EVENT_COMPRESSED_TEXT = 8    # decompressed; of a text message, then to be checked by `utf8_prefix`

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
    # From so many missing bytes on an incomplete frame is large: it is worth memory that was used before,
    # and to be received directly into it.
    LARGE_FRAME_BYTES = 64 * 1024
    # A binary message of so many bytes is unmasked while it is copied, which saves a pass over it ...
    LATE_MASK_BYTES = 4 * 1024
    # ... but for so many bytes, which say what it is: more than an RPC frame has before its payload.
    CLEAR_BYTES = 512

cdef class Parser:
    cdef readonly str close_reason     # of EVENT_CLOSE and EVENT_FAULT
    # Of the last event; valid until the next call on this parser. Of EVENT_BINARY only the first
    # CLEAR_BYTES may be looked at: what stands behind them is for `copy_part`, or for `unmask` before.
    cdef uint8_t *data
    cdef Py_ssize_t size
    cdef readonly int close_code

    cdef Role role
    cdef uint8_t *masked             # where the part of `data` begins that is masked still; NULL: none
    cdef uint8_t[4] mask             # of that
    cdef bint dead                   # a fault or a close frame was seen: the rest is ignored
    cdef bint compression            # an extension is agreed on that compresses messages
    cdef uint8_t message_opcode      # of the fragmented message under way, 0 if none
    cdef bint message_compressed     # its first frame had RESERVED_1 set
    cdef Py_ssize_t max_message_bytes
    cdef Buffer message              # payloads of the fragments so far
    cdef Py_ssize_t checked          # how much of `message` is known to be UTF-8, if it is text
    cdef Buffer tail                 # bytes of an incomplete frame, kept between reads
    cdef bint tail_is_large          # it was made for a large frame
    cdef Spares *spares              # where the tail of a large frame comes from; NULL: from the system
    cdef uint8_t *cursor             # the window: what is not yet parsed
    cdef uint8_t *end
    cdef bint window_is_tail         # the window lies in `tail`, not in the caller's memory
    cdef bint isolated               # a debug build put the last read there; False in all others
    cdef Py_ssize_t missing          # how many bytes the incomplete frame still wants; 0 unknown

    # Offers `size` bytes that the parser may change in place until `keep` is called.
    cdef int offer(self, uint8_t *data, Py_ssize_t size) except -1
    # The next event in the window: one of Event.
    cdef int next(self) except -1
    # A part of the last message, which has something masked: see `copy_part`.
    cdef bytes copy_masked(self, const uint8_t *start, Py_ssize_t size)
    # After this all of `data` is clear.
    cdef int unmask(self) except -1
    # Must be called before the offered memory is used for something else.
    cdef int keep(self) except -1
    # Where the next `size` bytes may be received directly (see `received`); NULL is never returned.
    cdef uint8_t *reserve(self, Py_ssize_t size) except NULL
    cdef int received(self, Py_ssize_t size) except -1
    # Free all memory; nothing more may be offered.
    cdef void release(self) noexcept
    cdef int fault(self, int code, str reason) noexcept
    cdef bint has_room(self, uint8_t first, uint64_t length) noexcept
    cdef int fragment(self) except -1
    cdef int reassembled(self) except -1
    cdef int text(self, Py_ssize_t checked) except -1
    cdef int closing(self) except -1

# A part of the message that a parser gave last, or of other memory, if nothing of the message is masked.
cdef inline bytes copy_part(Parser parser, const uint8_t *start, Py_ssize_t size):
    if parser.masked != NULL:
        return parser.copy_masked(start, size)
    return PyBytes_FromStringAndSize(<const char *> start, size)

# Writes a header for `size` bytes of payload to `out` (MAX_HEADER_BYTES long); returns its length.
# `mask` is NULL for an unmasked frame, else its four bytes are written too.
cdef Py_ssize_t write_header(uint8_t *out, uint8_t opcode, Py_ssize_t size, const uint8_t *mask) noexcept nogil
cdef bytes close_payload(int code, str reason)
# How many bytes of `data` are UTF-8 for sure, -1 if it is not UTF-8; without `whole` its last character may be cut.
cdef Py_ssize_t utf8_prefix(const uint8_t *data, Py_ssize_t size, bint whole) except -2
# What the close frame says of text that is not UTF-8.
cdef str utf8_fault()
