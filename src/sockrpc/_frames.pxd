# The RPC frames of both protocols: one frame is one whole binary message.

from libc.stdint cimport uint8_t, uint32_t

cdef enum:
    OPCODE_NOTIFY = 1
    OPCODE_REQUEST = 2
    OPCODE_RESET = 3
    OPCODE_RESPONSE = 4
    # From here on sockrpc.v1 only.
    OPCODE_OPEN = 5
    OPCODE_ITEM = 6
    OPCODE_END = 7
    OPCODE_CREDIT = 8
    OPCODE_ERROR = 9
    OPCODE_HELLO = 10
    OPCODE_GOAWAY = 11
    OPCODE_KEEPALIVE_PING = 12
    OPCODE_KEEPALIVE_PONG = 13
    OPCODE_ROWS = 14
    MAX_NAME_BYTES = 255
    MAX_CURSOR_BYTES = 255
    MAX_KEEPALIVE_BYTES = 125
    # The longest of opcode, id, name length and name, with the flags and the timeout of an Open.
    MAX_PREFIX_BYTES = 11 + 255
    # Opcode, id, cursor length and cursor.
    MAX_ITEM_PREFIX_BYTES = 6 + 255
    HELLO_BYTES = 14
    # Opcode, id, code, outcome and the length of the message.
    ERROR_PREFIX_BYTES = 9

# The flags of an Open.
cdef enum:
    OPEN_TIMEOUT = 0x01
    OPEN_METADATA = 0x02
    OPEN_SENDS_ITEMS = 0x04
    OPEN_TAKES_ITEMS = 0x08
    OPEN_TRACKED = 0x10
    OPEN_NESTED = 0x20

# The roles that receive a frame: bits of the `receivers` column.
cdef enum:
    RECEIVER_SERVER = 1
    RECEIVER_CLIENT = 2

cdef enum Fault:
    FAULT_NONE = 0
    FAULT_EMPTY = 1
    FAULT_UNKNOWN_OPCODE = 2
    FAULT_WRONG_SIDE = 3
    FAULT_SHORT_ID = 4
    FAULT_SHORT_NAME = 5
    FAULT_TRAILING = 6
    FAULT_SHORT = 7
    FAULT_OPEN_FLAGS = 8
    FAULT_TRACKED = 9
    FAULT_ID_ZERO = 10
    FAULT_ID_SIDE = 11
    FAULT_LARGE = 12
    FAULT_OPCODE_ZERO = 13
    FAULT_BEHIND_FIELDS = 14
    # An opcode of a later version: no fault, but nothing else was parsed.
    FAULT_IGNORED = 15

# A row of these, one per protocol and role, says which frames an end of a connection may receive.
cdef struct Receiver:
    bint is_v1
    int role                         # a RECEIVER bit
    uint32_t own                     # v1: the top bit of the ids that this end picks
    uint8_t last_opcode              # the largest that the protocol has

# A parsed frame, whose pointers into the message are valid as long as that is.
cdef struct Frame:
    uint8_t opcode
    uint32_t id
    const uint8_t *name
    Py_ssize_t name_size
    const uint8_t *payload           # the rest of the message
    Py_ssize_t payload_size
    # The fields below are set by the frames of sockrpc.v1 that have them.
    uint8_t flags
    uint8_t code
    uint8_t outcome
    uint32_t[3] numbers              # Open: timeout; Credit: bytes; Hello: calls, window, message bytes; Goaway: grace
    const uint8_t *text              # Open: metadata; Error: message
    Py_ssize_t text_size

cdef Fault parse(const uint8_t *data, Py_ssize_t size, const Receiver *receiver, Frame *out) noexcept nogil
cdef str fault_reason(Fault fault)
cdef str name_fault()
cdef str text_fault()

cdef const Receiver *receiver_of(str protocol, int role) except NULL

# Each writes what precedes the payload to `out`, which has room for its longest, and returns its length.
cdef Py_ssize_t write_notify(uint8_t *out, const uint8_t *name, Py_ssize_t name_size) noexcept nogil
cdef Py_ssize_t write_request(
    uint8_t *out, uint32_t id, const uint8_t *name, Py_ssize_t name_size) noexcept nogil
cdef Py_ssize_t write_reset(uint8_t *out, uint32_t id) noexcept nogil
cdef Py_ssize_t write_response(uint8_t *out, uint32_t id) noexcept nogil
# An Open without metadata; `timeout` is written if the flags say so.
cdef Py_ssize_t write_open(
    uint8_t *out, uint32_t id, uint8_t flags, uint32_t timeout, const uint8_t *name, Py_ssize_t name_size) noexcept nogil
# The same with metadata, of at most 65,535 bytes.
cdef bytes open_prefix(uint32_t id, uint8_t flags, uint32_t timeout, bytes metadata, bytes name)
cdef Py_ssize_t write_item(uint8_t *out, uint32_t id, bytes cursor) noexcept
cdef Py_ssize_t write_end(uint8_t *out, uint32_t id) noexcept nogil
cdef Py_ssize_t write_credit(uint8_t *out, uint32_t id, uint32_t size) noexcept nogil
# This writes all that precedes the details; the message has at most 65,535 bytes.
cdef bytes error_prefix(uint32_t id, uint8_t code, uint8_t outcome, bytes message)
cdef Py_ssize_t write_hello(uint8_t *out, uint32_t calls, uint32_t window, uint32_t message_bytes) noexcept nogil
cdef Py_ssize_t write_goaway(uint8_t *out, uint8_t code, uint32_t grace) noexcept nogil

# Returns a method or event name in UTF-8; raises UsageError for other types, and above MAX_NAME_BYTES.
cdef bytes encode_name(object name)
# Returns the payload as bytes: str becomes UTF-8, a bytearray or memoryview is copied because it may
# change, anything else raises TypeError.
cdef bytes encode_payload(object payload)
