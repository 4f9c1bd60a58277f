"""The RPC frames of both protocols: bytes to fields and fields to bytes (PROTOCOL.md).

This module does not know the meaning of ids and names.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from sockrpc.errors import UsageError

PROTOCOL_V0 = "websocket.io-rpc-v0.1"
PROTOCOL_V1 = "sockrpc.v1"
# Those that this package speaks, in order of preference.
PROTOCOLS = (PROTOCOL_V1, PROTOCOL_V0)
SUBPROTOCOL = PROTOCOL_V0


# The fields between the id and the name, in order.
cdef enum Field:
    FIELD_NONE = 0
    FIELD_FLAGS = 1        # a byte of any value
    FIELD_CODE = 2
    FIELD_OUTCOME = 3
    FIELD_NUMBER = 4       # four bytes
    FIELD_TEXT = 5         # its length in two bytes, then that many
    FIELD_OPTIONS = 6      # flags in one byte, and the timeout and the metadata if they say so

cdef enum Rest:
    REST_NONE = 0
    REST_ANY = 1
    REST_SMALL = 2         # at most MAX_KEEPALIVE_BYTES

# In v1 the top bit of its id says on which side a call was made.
cdef enum Sender:
    SENT_BY_ANYBODY = 0
    SENT_BY_CALLER = 1
    SENT_BY_CALLEE = 2

# A row per opcode: its fields, in this order, and who may send it.
cdef struct Row:
    int receivers          # v0.1: the roles that may receive it
    int sender             # v1
    bint has_id
    uint8_t[5] fields
    bint has_name
    int rest

cdef Row[OPCODE_ROWS] LAYOUT
LAYOUT[0] = Row(0, 0, False, [0, 0, 0, 0, 0], False, REST_NONE)
LAYOUT[OPCODE_NOTIFY] = Row(
    RECEIVER_SERVER | RECEIVER_CLIENT, SENT_BY_ANYBODY, False, [0, 0, 0, 0, 0], True, REST_ANY)
LAYOUT[OPCODE_REQUEST] = Row(RECEIVER_SERVER, SENT_BY_CALLER, True, [0, 0, 0, 0, 0], True, REST_ANY)
LAYOUT[OPCODE_RESET] = Row(RECEIVER_SERVER, SENT_BY_CALLER, True, [0, 0, 0, 0, 0], False, REST_NONE)
LAYOUT[OPCODE_RESPONSE] = Row(RECEIVER_CLIENT, SENT_BY_CALLEE, True, [0, 0, 0, 0, 0], False, REST_ANY)
LAYOUT[OPCODE_OPEN] = Row(0, SENT_BY_CALLER, True, [FIELD_OPTIONS, 0, 0, 0, 0], True, REST_ANY)
LAYOUT[OPCODE_ITEM] = Row(0, SENT_BY_ANYBODY, True, [0, 0, 0, 0, 0], False, REST_ANY)
LAYOUT[OPCODE_END] = Row(0, SENT_BY_CALLER, True, [0, 0, 0, 0, 0], False, REST_NONE)
LAYOUT[OPCODE_CREDIT] = Row(0, SENT_BY_ANYBODY, True, [FIELD_NUMBER, 0, 0, 0, 0], False, REST_NONE)
LAYOUT[OPCODE_ERROR] = Row(
    0, SENT_BY_CALLEE, True, [FIELD_CODE, FIELD_OUTCOME, FIELD_TEXT, 0, 0], False, REST_ANY)
LAYOUT[OPCODE_HELLO] = Row(
    0, SENT_BY_ANYBODY, False, [FIELD_FLAGS, FIELD_NUMBER, FIELD_NUMBER, FIELD_NUMBER, 0], False, REST_ANY)
LAYOUT[OPCODE_GOAWAY] = Row(0, SENT_BY_ANYBODY, False, [FIELD_CODE, FIELD_NUMBER, 0, 0, 0], False, REST_ANY)
LAYOUT[OPCODE_KEEPALIVE_PING] = Row(0, SENT_BY_ANYBODY, False, [0, 0, 0, 0, 0], False, REST_SMALL)
LAYOUT[OPCODE_KEEPALIVE_PONG] = Row(0, SENT_BY_ANYBODY, False, [0, 0, 0, 0, 0], False, REST_SMALL)

cdef enum:
    KNOWN_FLAGS = OPEN_TIMEOUT | OPEN_METADATA | OPEN_SENDS_ITEMS | OPEN_TAKES_ITEMS | OPEN_TRACKED | OPEN_NESTED

# For callers in Python, who name the flags of an Open.
FLAGS = {
    "sends items": OPEN_SENDS_ITEMS, "takes items": OPEN_TAKES_ITEMS, "tracked": OPEN_TRACKED, "nested": OPEN_NESTED,
}

cdef enum:
    TOP_BIT = 0x80000000

# By protocol and role.
cdef Receiver[4] RECEIVERS
RECEIVERS[0] = Receiver(False, RECEIVER_SERVER, 0, OPCODE_RESPONSE)
RECEIVERS[1] = Receiver(False, RECEIVER_CLIENT, 0, OPCODE_RESPONSE)
RECEIVERS[2] = Receiver(True, RECEIVER_SERVER, TOP_BIT, OPCODE_KEEPALIVE_PONG)
RECEIVERS[3] = Receiver(True, RECEIVER_CLIENT, 0, OPCODE_KEEPALIVE_PONG)


cdef const Receiver *receiver_of(str protocol, int role) except NULL:
    cdef int i
    for i in range(4):
        if RECEIVERS[i].role == role and RECEIVERS[i].is_v1 == (protocol == PROTOCOL_V1):
            return &RECEIVERS[i]
    raise ValueError(f"no such role: {role}")


cdef inline uint32_t load_u32(const uint8_t *p) noexcept nogil:
    # Byte by byte, because the id follows a one-byte opcode and is not aligned.
    return (<uint32_t> p[0] << 24) | (<uint32_t> p[1] << 16) | (<uint32_t> p[2] << 8) | p[3]


cdef inline void store_u32(uint8_t *p, uint32_t value) noexcept nogil:
    p[0] = <uint8_t> (value >> 24)
    p[1] = <uint8_t> (value >> 16)
    p[2] = <uint8_t> (value >> 8)
    p[3] = <uint8_t> value


cdef inline Fault check_id(const Row *row, uint32_t id, const Receiver *receiver) noexcept nogil:
    # A call of its caller has an id of the other end's, a call of its callee one of our own.
    if id == 0:
        return FAULT_ID_ZERO
    if row.sender == SENT_BY_CALLER and (id & <uint32_t> TOP_BIT) == receiver.own:
        return FAULT_ID_SIDE
    if row.sender == SENT_BY_CALLEE and (id & <uint32_t> TOP_BIT) != receiver.own:
        return FAULT_ID_SIDE
    return FAULT_NONE


cdef Fault parse_fields(
        const uint8_t *fields, const uint8_t *data, Py_ssize_t size, Py_ssize_t *at, Frame *out) noexcept nogil:
    # `cursor` never passes `size`: each field compares the remaining bytes before it is read.
    cdef Py_ssize_t cursor = at[0]
    cdef int numbers = 0
    cdef uint8_t field
    while fields[0] != FIELD_NONE:
        field = fields[0]
        fields += 1
        if field == FIELD_NUMBER:
            if size - cursor < 4:
                return FAULT_SHORT
            out.numbers[numbers] = load_u32(data + cursor)
            numbers += 1
            cursor += 4
            continue
        if field != FIELD_TEXT:
            if size - cursor < 1:
                return FAULT_SHORT
            if field == FIELD_CODE:
                out.code = data[cursor]
            elif field == FIELD_OUTCOME:
                out.outcome = data[cursor]
            else:
                out.flags = data[cursor]
            cursor += 1
        if field == FIELD_OPTIONS:
            if out.flags & ~KNOWN_FLAGS:
                return FAULT_OPEN_FLAGS
            if out.flags & OPEN_TRACKED and not out.flags & OPEN_TAKES_ITEMS:
                return FAULT_TRACKED
            if out.flags & OPEN_TIMEOUT:
                if size - cursor < 4:
                    return FAULT_SHORT
                out.numbers[0] = load_u32(data + cursor)
                cursor += 4
        if field == FIELD_TEXT or (field == FIELD_OPTIONS and out.flags & OPEN_METADATA):
            if size - cursor < 2:
                return FAULT_SHORT
            out.text_size = (<Py_ssize_t> data[cursor] << 8) | data[cursor + 1]
            cursor += 2
            if size - cursor < out.text_size:
                return FAULT_SHORT
            out.text = data + cursor
            cursor += out.text_size
    at[0] = cursor
    return FAULT_NONE


cdef Fault parse(const uint8_t *data, Py_ssize_t size, const Receiver *receiver, Frame *out) noexcept nogil:
    # `cursor` never passes `size`: each field compares the remaining bytes before it is read.
    cdef Py_ssize_t cursor = 1
    cdef const Row *row
    cdef Fault fault
    out.opcode = 0
    out.id = 0
    out.name = NULL
    out.name_size = 0
    if size == 0:
        return FAULT_EMPTY
    out.opcode = data[0]
    if <uint8_t> (out.opcode - 1) >= receiver.last_opcode:
        if not receiver.is_v1:
            return FAULT_UNKNOWN_OPCODE
        return FAULT_IGNORED if out.opcode else FAULT_OPCODE_ZERO
    row = &LAYOUT[out.opcode]
    if not (row.receivers & receiver.role or receiver.is_v1):
        return FAULT_WRONG_SIDE
    if row.has_id:
        if size - cursor < 4:
            return FAULT_SHORT_ID
        out.id = load_u32(data + cursor)
        cursor += 4
        if receiver.is_v1:
            fault = check_id(row, out.id, receiver)
            if fault != FAULT_NONE:
                return fault
    if row.fields[0] != FIELD_NONE:
        out.flags = 0
        out.text = NULL
        out.text_size = 0
        fault = parse_fields(row.fields, data, size, &cursor, out)
        if fault != FAULT_NONE:
            return fault
    if row.has_name:
        if size - cursor < 1:
            return FAULT_SHORT_NAME
        out.name_size = data[cursor]
        cursor += 1
        if size - cursor < out.name_size:
            return FAULT_SHORT_NAME
        out.name = data + cursor
        cursor += out.name_size
    out.payload = data + cursor
    out.payload_size = size - cursor
    if row.rest != REST_ANY:
        if row.rest == REST_NONE and cursor != size:
            return FAULT_TRAILING if row.fields[0] == FIELD_NONE else FAULT_BEHIND_FIELDS
        if row.rest == REST_SMALL and out.payload_size > MAX_KEEPALIVE_BYTES:
            return FAULT_LARGE
    return FAULT_NONE


cdef tuple REASONS = (
    "",
    "empty message",
    "unknown opcode",
    "opcode that this side never receives",
    "frame too short for its id",
    "frame too short for its name",
    "bytes after the id",
    "frame too short for its fields",
    "unknown flags in an open",
    "flag 10 without flag 08 in an open",
    "id 0",
    "id of the wrong side",
    "ping or pong of more than 125 bytes",
    "opcode 0",
    "bytes after the last field",
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


cdef Py_ssize_t write_open(
        uint8_t *out, uint32_t id, uint8_t flags, uint32_t timeout, const uint8_t *name,
        Py_ssize_t name_size) noexcept nogil:
    cdef Py_ssize_t n = 6
    out[0] = OPCODE_OPEN
    store_u32(out + 1, id)
    out[5] = flags
    if flags & OPEN_TIMEOUT:
        store_u32(out + n, timeout)
        n += 4
    out[n] = <uint8_t> name_size
    memcpy(out + n + 1, name, name_size)
    return n + 1 + name_size


cdef bytes open_prefix(uint32_t id, uint8_t flags, uint32_t timeout, bytes metadata, bytes name):
    cdef uint8_t head[12]
    cdef Py_ssize_t n = 6
    cdef Py_ssize_t size = PyBytes_GET_SIZE(metadata)
    head[0] = OPCODE_OPEN
    store_u32(head + 1, id)
    head[5] = flags
    if flags & OPEN_TIMEOUT:
        store_u32(head + n, timeout)
        n += 4
    head[n] = <uint8_t> (size >> 8)
    head[n + 1] = <uint8_t> size
    return head[:n + 2] + metadata + bytes((PyBytes_GET_SIZE(name),)) + name


cdef Py_ssize_t write_item(uint8_t *out, uint32_t id, bytes cursor) noexcept:
    cdef Py_ssize_t size
    out[0] = OPCODE_ITEM
    store_u32(out + 1, id)
    if cursor is None:
        return 5
    size = PyBytes_GET_SIZE(cursor)
    out[5] = <uint8_t> size
    memcpy(out + 6, PyBytes_AS_STRING(cursor), size)
    return 6 + size


cdef Py_ssize_t write_end(uint8_t *out, uint32_t id) noexcept nogil:
    out[0] = OPCODE_END
    store_u32(out + 1, id)
    return 5


cdef Py_ssize_t write_credit(uint8_t *out, uint32_t id, uint32_t size) noexcept nogil:
    out[0] = OPCODE_CREDIT
    store_u32(out + 1, id)
    store_u32(out + 5, size)
    return 9


cdef bytes error_prefix(uint32_t id, uint8_t code, uint8_t outcome, bytes message):
    cdef uint8_t head[ERROR_PREFIX_BYTES]
    cdef Py_ssize_t size = PyBytes_GET_SIZE(message)
    head[0] = OPCODE_ERROR
    store_u32(head + 1, id)
    head[5] = code
    head[6] = outcome
    head[7] = <uint8_t> (size >> 8)
    head[8] = <uint8_t> size
    return head[:ERROR_PREFIX_BYTES] + message


cdef Py_ssize_t write_hello(
        uint8_t *out, uint32_t calls, uint32_t window, uint32_t message_bytes) noexcept nogil:
    out[0] = OPCODE_HELLO
    out[1] = 0
    store_u32(out + 2, calls)
    store_u32(out + 6, window)
    store_u32(out + 10, message_bytes)
    return HELLO_BYTES


cdef Py_ssize_t write_goaway(uint8_t *out, uint8_t code, uint32_t grace) noexcept nogil:
    out[0] = OPCODE_GOAWAY
    out[1] = code
    store_u32(out + 2, grace)
    return 6


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


def encode_bytes(payload) -> bytes:
    """Return a payload in its form on the wire.

    Raises:
        TypeError: It is neither text nor bytes.
    """
    return encode_payload(payload)


def encode(name, payload) -> tuple[bytes, bytes]:
    """Return a name and a payload in their form on the wire.

    Raises:
        UsageError: The name is not a str or longer than 255 bytes of UTF-8.
        TypeError: The payload is neither text nor bytes.
    """
    return encode_name(name), encode_payload(payload)
