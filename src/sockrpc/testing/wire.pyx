"""Python faces of compiled internals, for the tests and benchmarks of sockrpc: bytes to values and back, and ids.

Nothing of the package imports this module, and it promises nothing. The public part of `sockrpc.testing` is what
docs/howto/testing.md shows.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from typing import NamedTuple

from sockrpc._debug cimport DEBUG, free_isolated, isolate
from sockrpc._frames cimport (
    FAULT_IGNORED,
    FAULT_NONE,
    MAX_PREFIX_BYTES,
    OPCODE_CREDIT,
    OPCODE_END,
    OPCODE_ERROR,
    OPCODE_GOAWAY,
    OPCODE_HELLO,
    OPCODE_ITEM,
    OPCODE_KEEPALIVE_PING,
    OPCODE_KEEPALIVE_PONG,
    OPCODE_NOTIFY,
    OPCODE_OPEN,
    OPCODE_REQUEST,
    OPCODE_RESET,
    OPCODE_RESPONSE,
    OPEN_METADATA,
    OPEN_TIMEOUT,
    RECEIVER_CLIENT,
    RECEIVER_SERVER,
    Fault,
    Frame,
    Receiver,
    encode_name,
    encode_payload,
    error_prefix,
    fault_reason,
    name_fault,
    open_prefix,
    parse,
    receiver_of,
    write_credit,
    write_end,
    write_goaway,
    write_hello,
    write_item,
    write_notify,
    write_open,
    write_request,
    write_reset,
    write_response,
)
from sockrpc.peer.table cimport Entry, RequestTable
from sockrpc.websocket.masking cimport apply_mask, fresh_mask
from sockrpc.websocket.parser cimport (
    EVENT_BINARY,
    EVENT_CLOSE,
    EVENT_COMPRESSED_BINARY,
    EVENT_COMPRESSED_TEXT,
    EVENT_FAULT,
    EVENT_NEED_DATA,
    EVENT_PING,
    EVENT_PONG,
    EVENT_TEXT,
    MAX_CONTROL_BYTES,
    MAX_HEADER_BYTES,
    Parser,
    copy_part,
    write_header,
)

from sockrpc._frames import PROTOCOL_V0 as _PROTOCOL_V0
from sockrpc.errors import ProtocolError, UsageError
from sockrpc.peer.metadata import MAX_ENTRIES as _MAX_ENTRIES
from sockrpc.peer.metadata import MAX_METADATA_BYTES as _MAX_METADATA_BYTES
from sockrpc.peer.metadata import decode as _decode


# RPC frames (_frames.pyx)


class Notify(NamedTuple):
    """Opcode 1, which is never answered."""

    name: str
    payload: bytes


class Request(NamedTuple):
    """Opcode 2, answered by one Response of the same id; in v0.1 perhaps never, in v1 by that or an Error."""

    id: int
    name: str
    payload: bytes


class Reset(NamedTuple):
    """Opcode 3: the caller has given up the call of this id."""

    id: int


class Response(NamedTuple):
    """Opcode 4, the answer to the Request of the same id."""

    id: int
    payload: bytes


# From here on sockrpc.v1 only.


class Open(NamedTuple):
    """Opcode 5: a Request with options. Its flags say which of them there are; the timeout is in milliseconds."""

    id: int
    flags: int
    timeout: int | None
    metadata: bytes | None
    name: str
    payload: bytes


class Item(NamedTuple):
    """Opcode 6. Only those towards the caller of a tracked call have a cursor."""

    id: int
    cursor: bytes | None
    payload: bytes


class End(NamedTuple):
    """Opcode 7: no more items come from the caller."""

    id: int


class Credit(NamedTuple):
    """Opcode 8: the consumer of items has taken so many bytes; 0: it takes no more."""

    id: int
    size: int


class Error(NamedTuple):
    """Opcode 9, the end of a call that is not answered."""

    id: int
    code: int
    outcome: int
    message: str
    details: bytes


class Hello(NamedTuple):
    """Opcode 10, the first frame of either side."""

    flags: int
    max_calls: int
    window: int
    max_message_bytes: int
    metadata: bytes


class Goaway(NamedTuple):
    """Opcode 11: its sender takes no more calls; the grace is in milliseconds."""

    code: int
    grace: int
    message: str


class Ping(NamedTuple):
    """Opcode 12, which a page may send."""

    payload: bytes


class Pong(NamedTuple):
    """Opcode 13, the answer to a Ping."""

    payload: bytes


class Ignored(NamedTuple):
    """An opcode of a later version, which is no fault."""

    opcode: int


cdef int receiver_bit(object receiver) except -1:
    if receiver == "server":
        return RECEIVER_SERVER
    if receiver == "client":
        return RECEIVER_CLIENT
    raise ValueError(f"receiver is 'server' or 'client', not {receiver!r}")


def parse_message(message: bytes, *, receiver: str, protocol: str = _PROTOCOL_V0, tracked: bool = False) -> object:
    """Parse one whole binary message with the code of the engine.

    Args:
        message: The message.
        receiver: "server" or "client", the side that received it.
        protocol: The subprotocol.
        tracked: An Item is one of a call whose items have cursors.

    Raises:
        ProtocolError: The message is not a well-formed frame that this side may receive.
        ValueError: There is no such receiver.
    """
    cdef const Receiver *side = receiver_of(protocol, receiver_bit(receiver))
    cdef const uint8_t *data = <const uint8_t *> PyBytes_AS_STRING(message)
    if DEBUG:
        # A read past the end of a bytes object would find its final zero and go unnoticed.
        data = isolate(data, PyBytes_GET_SIZE(message))
    try:
        return read_frame(data, PyBytes_GET_SIZE(message), side, tracked)
    finally:
        if DEBUG:  # pragma: no trace
            free_isolated(data)  # pragma: no trace


cdef object read_frame(const uint8_t *data, Py_ssize_t size, const Receiver *side, bint tracked):
    cdef Frame frame
    cdef Fault fault = parse(data, size, side, &frame)
    if fault == FAULT_IGNORED:
        return Ignored(frame.opcode)
    if fault != FAULT_NONE:
        raise ProtocolError(1002, fault_reason(fault))
    cdef bytes payload = PyBytes_FromStringAndSize(<const char *> frame.payload, frame.payload_size)
    if frame.opcode == OPCODE_RESET:
        return Reset(frame.id)
    if frame.opcode == OPCODE_RESPONSE:
        return Response(frame.id, payload)
    if frame.opcode == OPCODE_NOTIFY:
        return Notify(text_of(frame.name, frame.name_size, name_fault()), payload)
    if frame.opcode == OPCODE_REQUEST:
        return Request(frame.id, text_of(frame.name, frame.name_size, name_fault()), payload)
    if frame.opcode == OPCODE_OPEN:
        return Open(
            frame.id, frame.flags, frame.numbers[0] if frame.flags & OPEN_TIMEOUT else None,
            metadata_of(PyBytes_FromStringAndSize(<const char *> frame.text, frame.text_size))
            if frame.flags & OPEN_METADATA else None,
            text_of(frame.name, frame.name_size, name_fault()), payload)
    if frame.opcode == OPCODE_ITEM:
        if not tracked:
            return Item(frame.id, None, payload)
        if not payload or len(payload) - 1 < payload[0]:
            raise ProtocolError(1002, "frame too short for its cursor")
        return Item(frame.id, payload[1:1 + payload[0]], payload[1 + payload[0]:])
    if frame.opcode == OPCODE_END:
        return End(frame.id)
    if frame.opcode == OPCODE_CREDIT:
        return Credit(frame.id, frame.numbers[0])
    if frame.opcode == OPCODE_ERROR:
        return Error(
            frame.id, frame.code, frame.outcome, text_of(frame.text, frame.text_size, "message is not UTF-8"), payload)
    if frame.opcode == OPCODE_HELLO:
        if len(payload) > _MAX_METADATA_BYTES or len(_decode(metadata_of(payload))) > _MAX_ENTRIES:
            raise ProtocolError(1002, "more metadata in a hello than there may be")
        return Hello(frame.flags, frame.numbers[0], frame.numbers[1], frame.numbers[2], payload)
    if frame.opcode == OPCODE_GOAWAY:
        return Goaway(
            frame.code, frame.numbers[0], text_of(frame.payload, frame.payload_size, "message is not UTF-8"))
    return Ping(payload) if frame.opcode == OPCODE_KEEPALIVE_PING else Pong(payload)


cdef str text_of(const uint8_t *text, Py_ssize_t size, str fault):
    try:
        return PyUnicode_DecodeUTF8(<const char *> text, size, NULL)
    except UnicodeDecodeError:
        raise ProtocolError(1002, fault) from None


cdef bytes metadata_of(bytes data):
    # A larger one is refused unread, with an Error.
    if len(data) <= _MAX_METADATA_BYTES and _decode(data) is None:
        raise ProtocolError(1002, "metadata that does not parse")
    return data


def serialize_frame(frame: object) -> bytes:
    """Build the whole binary message of one frame.

    Raises:
        UsageError: A number or a text does not fit its field.
    """
    cdef uint8_t out[MAX_PREFIX_BYTES]
    cdef bytes name
    cdef Py_ssize_t n
    numbers = [value for value in frame if isinstance(value, int)]
    if not all([0 <= number <= 0xFFFFFFFF for number in numbers]):
        raise UsageError(f"an id is an unsigned 32-bit integer, as all numbers are, not one of {numbers}")
    if isinstance(frame, Reset):
        return PyBytes_FromStringAndSize(<char *> out, write_reset(out, frame.id))
    if isinstance(frame, End):
        return PyBytes_FromStringAndSize(<char *> out, write_end(out, frame.id))
    if isinstance(frame, Credit):
        return PyBytes_FromStringAndSize(<char *> out, write_credit(out, frame.id, frame.size))
    if isinstance(frame, Error):
        return error_prefix(frame.id, frame.code, frame.outcome, frame.message.encode()) + frame.details
    if isinstance(frame, Hello):
        n = write_hello(out, frame.max_calls, frame.window, frame.max_message_bytes)
        out[1] = frame.flags
        return PyBytes_FromStringAndSize(<char *> out, n) + frame.metadata
    if isinstance(frame, Goaway):
        n = write_goaway(out, frame.code, frame.grace)
        return PyBytes_FromStringAndSize(<char *> out, n) + frame.message.encode()
    if isinstance(frame, Open):
        name = encode_name(frame.name)
        if frame.metadata is not None:
            return open_prefix(frame.id, frame.flags, frame.timeout or 0, frame.metadata, name) + frame.payload
        n = write_open(
            out, frame.id, frame.flags, frame.timeout or 0, <const uint8_t *> PyBytes_AS_STRING(name), len(name))
    elif isinstance(frame, Item):
        n = write_item(out, frame.id, frame.cursor)
    elif isinstance(frame, (Ping, Pong)):
        out[0] = OPCODE_KEEPALIVE_PING if isinstance(frame, Ping) else OPCODE_KEEPALIVE_PONG
        n = 1
    elif isinstance(frame, Response):
        n = write_response(out, frame.id)
    else:
        name = encode_name(frame.name)
        if isinstance(frame, Notify):
            n = write_notify(out, <const uint8_t *> PyBytes_AS_STRING(name), len(name))
        else:
            n = write_request(out, frame.id, <const uint8_t *> PyBytes_AS_STRING(name), len(name))
    return PyBytes_FromStringAndSize(<char *> out, n) + encode_payload(frame.payload)


# WebSocket frames (websocket/parser.pyx)


OPCODES = {"continuation": 0, "text": 1, "binary": 2, "close": 8, "ping": 9, "pong": 10}
cdef dict EVENT_NAMES = {
    EVENT_BINARY: "binary", EVENT_TEXT: "text", EVENT_PING: "ping", EVENT_PONG: "pong",
    EVENT_COMPRESSED_BINARY: "compressed binary", EVENT_COMPRESSED_TEXT: "compressed text",
}


def feed(Parser parser not None, data: bytes) -> list[tuple[str, bytes]]:
    """Let a parser parse one read and return its events.

    Each event is a kind and its payload: "binary", "text", "ping", "pong", "close" (two bytes of
    code, then the reason), "fault" (likewise, to close with), "compressed binary" or "compressed
    text" (not decompressed). After "close" and "fault" everything is ignored.
    """
    # Copy it: the parser unmasks in place, and bytes objects must not change.
    cdef bytearray window = bytearray(data)
    cdef unsigned char[::1] view
    cdef int event
    cdef list events = []
    if window:
        view = window
        parser.offer(<uint8_t *> &view[0], len(window))
    while True:
        event = parser.next()
        if event == EVENT_NEED_DATA:
            break
        if event == EVENT_CLOSE or event == EVENT_FAULT:
            events.append((
                "close" if event == EVENT_CLOSE else "fault",
                parser.close_code.to_bytes(2, "big") + parser.close_reason.encode(),
            ))
            break
        events.append((EVENT_NAMES[event], copy_part(parser, parser.data, parser.size)))
    parser.keep()
    return events


def serialize(kind: str, payload: bytes, *, masked: bool, final: bool = True) -> bytes:
    """Build one WebSocket frame (RFC 6455 section 5.2).

    Args:
        kind: "continuation", "text", "binary", "close", "ping" or "pong".
        payload: The payload, unmasked.
        masked: True for a client's frame, which gets a fresh mask from a cryptographic source.
        final: False for a fragment that is not the last.

    Raises:
        UsageError: A control frame of more than 125 bytes or in fragments (RFC 6455 section 5.5).
    """
    cdef uint8_t opcode = OPCODES[kind]
    cdef uint8_t header[MAX_HEADER_BYTES]
    cdef uint8_t mask[4]
    cdef Py_ssize_t size = len(payload)
    cdef Py_ssize_t n
    cdef bytes frame
    cdef uint8_t *out
    if opcode & 0x08 and (size > MAX_CONTROL_BYTES or not final):
        raise UsageError(f"a {kind} frame has at most {MAX_CONTROL_BYTES} bytes, in one piece (RFC 6455 section 5.5)")
    if masked:
        fresh_mask(mask)
    n = write_header(header, opcode, size, mask if masked else NULL)
    if not final:
        header[0] &= 0x7F
    frame = PyBytes_FromStringAndSize(NULL, n + size)
    out = <uint8_t *> PyBytes_AS_STRING(frame)
    memcpy(out, header, n)
    memcpy(out + n, PyBytes_AS_STRING(payload), size)
    if masked:
        apply_mask(out + n, size, mask)
    return frame


# The table of request ids (peer/table.pyx)


@cython.final
cdef class Table:
    """A request table in Python, through which tests and benchmarks drive the compiled one."""

    cdef RequestTable table

    def __cinit__(self, last_id: int = 0):
        self.table = RequestTable()
        self.table.last_id = last_id

    def __len__(self) -> int:
        return self.table.count

    def new(self, id: int | None = None) -> Entry | None:
        """Insert an entry under `id`, or under the next free one; None if the id is in flight."""
        cdef Entry entry = Entry()
        entry.id = self.table.allocate() if id is None else id
        return entry if self.table.insert(entry) else None

    def find(self, id: int) -> Entry | None:
        """Return the entry in flight under `id`."""
        cdef PyObject *entry = self.table.find(id)
        return None if entry == NULL else <object> entry

    def take(self, entry: Entry) -> bool:
        """Remove this very entry; False if it is not in the table."""
        return self.table.take(entry)

    def entries(self) -> list[Entry]:
        """Return all entries."""
        return self.table.entries()
