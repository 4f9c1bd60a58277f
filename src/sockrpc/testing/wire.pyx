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
    FAULT_NONE,
    MAX_PREFIX_BYTES,
    OPCODE_NOTIFY,
    OPCODE_RESET,
    OPCODE_RESPONSE,
    RECEIVER_CLIENT,
    RECEIVER_SERVER,
    Fault,
    Frame,
    encode_name,
    encode_payload,
    fault_reason,
    name_fault,
    parse,
    receiver_of,
    write_notify,
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


# RPC frames (_frames.pyx)


class Notify(NamedTuple):
    """Opcode 1, which is never answered."""

    name: str
    payload: bytes


class Request(NamedTuple):
    """Opcode 2, answered by one Response of the same id, or never."""

    id: int
    name: str
    payload: bytes


class Reset(NamedTuple):
    """Opcode 3: the client has given up the call of this id."""

    id: int


class Response(NamedTuple):
    """Opcode 4, the answer to the Request of the same id."""

    id: int
    payload: bytes


cdef int receiver_bit(object receiver) except -1:
    if receiver == "server":
        return RECEIVER_SERVER
    if receiver == "client":
        return RECEIVER_CLIENT
    raise ValueError(f"receiver is 'server' or 'client', not {receiver!r}")


def parse_message(message: bytes, *, receiver: str) -> Notify | Request | Reset | Response:
    """Parse one whole binary message with the code of the engine.

    Args:
        message: The message.
        receiver: "server" or "client", the side that received it.

    Raises:
        ProtocolError: The message is not a well-formed frame that this side may receive.
        ValueError: There is no such receiver.
    """
    cdef int side = receiver_bit(receiver)
    cdef const uint8_t *data = <const uint8_t *> PyBytes_AS_STRING(message)
    if DEBUG:
        # A read past the end of a bytes object would find its final zero and go unnoticed.
        data = isolate(data, PyBytes_GET_SIZE(message))
    try:
        return read_frame(data, PyBytes_GET_SIZE(message), side)
    finally:
        if DEBUG:  # pragma: no trace
            free_isolated(data)  # pragma: no trace


cdef object read_frame(const uint8_t *data, Py_ssize_t size, int side):
    cdef Frame frame
    cdef Fault fault = parse(data, size, receiver_of(_PROTOCOL_V0, side), &frame)
    if fault != FAULT_NONE:
        raise ProtocolError(1002, fault_reason(fault))
    cdef bytes payload = PyBytes_FromStringAndSize(<const char *> frame.payload, frame.payload_size)
    if frame.opcode == OPCODE_RESET:
        return Reset(frame.id)
    if frame.opcode == OPCODE_RESPONSE:
        return Response(frame.id, payload)
    try:
        name = PyUnicode_DecodeUTF8(<const char *> frame.name, frame.name_size, NULL)
    except UnicodeDecodeError:
        raise ProtocolError(1002, name_fault()) from None
    if frame.opcode == OPCODE_NOTIFY:
        return Notify(name, payload)
    return Request(frame.id, name, payload)


def serialize_frame(frame: Notify | Request | Reset | Response) -> bytes:
    """Build the whole binary message of one frame.

    Raises:
        UsageError: The name is longer than 255 bytes, or the id is not an unsigned 32-bit integer.
    """
    cdef uint8_t out[MAX_PREFIX_BYTES]
    cdef bytes name
    cdef Py_ssize_t n
    if not isinstance(frame, Notify) and not 0 <= frame.id <= 0xFFFFFFFF:
        raise UsageError(f"an id is an unsigned 32-bit integer, not {frame.id}")
    if isinstance(frame, Reset):
        n = write_reset(out, frame.id)
        return PyBytes_FromStringAndSize(<char *> out, n)
    if isinstance(frame, Response):
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
