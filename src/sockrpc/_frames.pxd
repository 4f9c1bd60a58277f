# RPC frames of websocket.io-rpc-v0.1: one frame is one whole binary message.

from libc.stdint cimport uint8_t, uint32_t

cdef enum:
    OPCODE_NOTIFY = 1
    OPCODE_REQUEST = 2
    OPCODE_RESET = 3
    OPCODE_RESPONSE = 4
    MAX_NAME_BYTES = 255
    # The longest of opcode, id, name length and name.
    MAX_PREFIX_BYTES = 6 + 255

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

# A parsed frame, whose pointers into the message are valid as long as that is.
cdef struct Frame:
    uint8_t opcode
    uint32_t id
    const uint8_t *name
    Py_ssize_t name_size
    const uint8_t *payload
    Py_ssize_t payload_size

cdef Fault parse(const uint8_t *data, Py_ssize_t size, int receiver, Frame *out) noexcept nogil
cdef str fault_reason(Fault fault)
cdef str name_fault()
cdef str text_fault()

# Each writes what precedes the payload to `out` (MAX_PREFIX_BYTES long) and returns its length.
cdef Py_ssize_t write_notify(uint8_t *out, const uint8_t *name, Py_ssize_t name_size) noexcept nogil
cdef Py_ssize_t write_request(
    uint8_t *out, uint32_t id, const uint8_t *name, Py_ssize_t name_size) noexcept nogil
cdef Py_ssize_t write_reset(uint8_t *out, uint32_t id) noexcept nogil
cdef Py_ssize_t write_response(uint8_t *out, uint32_t id) noexcept nogil

# Returns a method or event name in UTF-8; raises UsageError for other types, and above MAX_NAME_BYTES.
cdef bytes encode_name(object name)
# Returns the payload as bytes: str becomes UTF-8, a bytearray or memoryview is copied because it may
# change, anything else raises TypeError.
cdef bytes encode_payload(object payload)
