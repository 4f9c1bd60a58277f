"""The RPC frames of ``websocket.io-rpc-v0.1``: bytes to fields and fields to bytes (PROTOCOL.md).

This module does not know the meaning of ids and names.
"""

from cpython.bytes cimport PyBytes_CheckExact
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from sockrpc.errors import UsageError

SUBPROTOCOL = "websocket.io-rpc-v0.1"


# A row per opcode: its fields, in this order, and the roles that may receive it.
cdef struct Row:
    int receivers
    bint has_id
    bint has_name
    bint has_payload

cdef enum:
    ROWS = 5
cdef Row[ROWS] LAYOUT
LAYOUT[0] = Row(0, False, False, False)
LAYOUT[OPCODE_NOTIFY] = Row(RECEIVER_SERVER | RECEIVER_CLIENT, False, True, True)
LAYOUT[OPCODE_REQUEST] = Row(RECEIVER_SERVER, True, True, True)
LAYOUT[OPCODE_RESET] = Row(RECEIVER_SERVER, True, False, False)
LAYOUT[OPCODE_RESPONSE] = Row(RECEIVER_CLIENT, True, False, True)


cdef inline uint32_t load_u32(const uint8_t *p) noexcept nogil:
    # Byte by byte, because the id follows a one-byte opcode and is not aligned.
    return (<uint32_t> p[0] << 24) | (<uint32_t> p[1] << 16) | (<uint32_t> p[2] << 8) | p[3]


cdef inline void store_u32(uint8_t *p, uint32_t value) noexcept nogil:
    p[0] = <uint8_t> (value >> 24)
    p[1] = <uint8_t> (value >> 16)
    p[2] = <uint8_t> (value >> 8)
    p[3] = <uint8_t> value


cdef Fault parse(const uint8_t *data, Py_ssize_t size, int receiver, Frame *out) noexcept nogil:
    # `cursor` never passes `size`: each field compares the remaining bytes before it is read.
    cdef Py_ssize_t cursor = 1
    cdef const Row *row
    out.opcode = 0
    out.id = 0
    out.name = NULL
    out.name_size = 0
    if size == 0:
        return FAULT_EMPTY
    out.opcode = data[0]
    if out.opcode == 0 or out.opcode >= ROWS:
        return FAULT_UNKNOWN_OPCODE
    row = &LAYOUT[out.opcode]
    if not row.receivers & receiver:
        return FAULT_WRONG_SIDE
    if row.has_id:
        if size - cursor < 4:
            return FAULT_SHORT_ID
        out.id = load_u32(data + cursor)
        cursor += 4
    if row.has_name:
        if size - cursor < 1:
            return FAULT_SHORT_NAME
        out.name_size = data[cursor]
        cursor += 1
        if size - cursor < out.name_size:
            return FAULT_SHORT_NAME
        out.name = data + cursor
        cursor += out.name_size
    if not row.has_payload and cursor != size:
        return FAULT_TRAILING
    out.payload = data + cursor
    out.payload_size = size - cursor
    return FAULT_NONE


cdef tuple REASONS = (
    "",
    "empty message",
    "unknown opcode",
    "opcode that this side never receives",
    "frame too short for its id",
    "frame too short for its name",
    "bytes after the id",
)


cdef str fault_reason(Fault fault):
    return REASONS[<int> fault]


cdef str name_fault():
    return "name is not UTF-8"


cdef str text_fault():
    return "text message: every message is binary"


cdef Py_ssize_t write_notify(uint8_t *out, const uint8_t *name, Py_ssize_t name_size) noexcept nogil:
    out[0] = OPCODE_NOTIFY
    out[1] = <uint8_t> name_size
    memcpy(out + 2, name, name_size)
    return 2 + name_size


cdef Py_ssize_t write_request(
        uint8_t *out, uint32_t id, const uint8_t *name, Py_ssize_t name_size) noexcept nogil:
    out[0] = OPCODE_REQUEST
    store_u32(out + 1, id)
    out[5] = <uint8_t> name_size
    memcpy(out + 6, name, name_size)
    return 6 + name_size


cdef Py_ssize_t write_reset(uint8_t *out, uint32_t id) noexcept nogil:
    out[0] = OPCODE_RESET
    store_u32(out + 1, id)
    return 5


cdef Py_ssize_t write_response(uint8_t *out, uint32_t id) noexcept nogil:
    out[0] = OPCODE_RESPONSE
    store_u32(out + 1, id)
    return 5


cdef bytes encode_name(object name):
    cdef bytes encoded
    if not isinstance(name, str):
        raise UsageError(f"a name is a str, not {type(name).__name__}")
    try:
        encoded = (<str> name).encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"the name {name!r} cannot be encoded as UTF-8: {error}") from None
    if len(encoded) > MAX_NAME_BYTES:
        raise UsageError(f"a name is at most {MAX_NAME_BYTES} bytes of UTF-8, this one has {len(encoded)}")
    return encoded


cdef bytes encode_payload(object payload):
    if PyBytes_CheckExact(payload):
        return <bytes> payload
    if isinstance(payload, str):
        return (<str> payload).encode()
    if isinstance(payload, (bytes, bytearray, memoryview)):
        return bytes(payload)
    raise TypeError(f"a payload is str, bytes, bytearray or memoryview, not {type(payload).__name__}")


def encode(name, payload) -> tuple[bytes, bytes]:
    """Return a name and a payload in their form on the wire.

    Raises:
        UsageError: The name is not a str or longer than 255 bytes of UTF-8.
        TypeError: The payload is neither text nor bytes.
    """
    return encode_name(name), encode_payload(payload)
