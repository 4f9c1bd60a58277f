"""The frames of `sockrpc.v1` in plain Python, from PROTOCOL.md alone: an oracle for `sockrpc._frames`."""

from __future__ import annotations

import re
from typing import Any

from sockrpc.errors import ProtocolError
from sockrpc.testing import wire
from tests.kit.streams import Role

# (kind, fields ...) or the word that the reason of the fault must have
Fields = tuple[Any, ...]

KINDS = {
    1: ("notify", "name rest"),
    2: ("request", "id-of-peer name rest"),
    3: ("reset", "id-of-peer"),
    4: ("response", "id-of-own rest"),
    5: ("open", "id-of-peer options name rest"),
    6: ("item", "id item"),
    7: ("end", "id-of-peer"),
    8: ("credit", "id u32"),
    9: ("error", "id-of-own u8 u8 text rest"),
    10: ("hello", "u8 u32 u32 u32 hello"),
    11: ("goaway", "u8 u32 text-rest"),
    12: ("ping", "small"),
    13: ("pong", "small"),
}
OPCODES = {kind: opcode for opcode, (kind, _) in KINDS.items()}
MAX_METADATA, MAX_ENTRIES = 16 * 1024, 64
KEY = re.compile(rb"[a-z0-9._-]+")


class Wrong(Exception):
    """The message is malformed; its text is a word of the reason."""


class Reader:
    """The bytes of a message, taken from its beginning."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, size: int) -> bytes:
        if len(self.data) < size:
            raise Wrong("short")
        taken, self.data = self.data[:size], self.data[size:]
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def rest(self) -> bytes:
        return self.take(len(self.data))


def entries(data: bytes) -> dict[bytes, bytes]:
    """The entries of metadata."""
    reader, found = Reader(data), dict[bytes, bytes]()
    try:
        while reader.data:
            key = reader.take(reader.number(1))
            value = reader.take(reader.number(2))
            if not KEY.fullmatch(key) or key in found:
                raise Wrong("metadata")
            found[key] = value
    except Wrong:
        raise Wrong("metadata") from None
    return found


def text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise Wrong("UTF-8") from None


def read_id(reader: Reader, field: str, receiver: Role) -> int:
    id = reader.number(4)
    if id == 0:
        raise Wrong("id 0")
    made_by = "server" if id >= 1 << 31 else "client"
    if (field == "id-of-peer" and made_by == receiver) or (field == "id-of-own" and made_by != receiver):
        raise Wrong("wrong side")
    return id


def read_options(reader: Reader) -> Fields:
    flags = reader.number(1)
    if flags & 0xC0:
        raise Wrong("flags")
    if flags & 0x18 == 0x10:
        raise Wrong("flag 10")
    timeout = reader.number(4) if flags & 1 else None
    metadata = reader.take(reader.number(2)) if flags & 2 else None
    return flags, timeout, metadata


def read_rest(reader: Reader, field: str, *, tracked: bool) -> Fields:
    if field == "item":
        return (reader.take(reader.number(1)) if tracked else None, reader.rest())
    data = reader.rest()
    if field == "small" and len(data) > 125:
        raise Wrong("125")
    if field == "hello" and (len(data) > MAX_METADATA or len(entries(data)) > MAX_ENTRIES):
        raise Wrong("metadata")
    return (text(data) if field == "text-rest" else data,)


def read_fields(reader: Reader, layout: list[str], receiver: Role, *, tracked: bool) -> Fields:
    fields: Fields = ()
    name: bytes | None = None
    for field in layout:
        if field.startswith("id"):
            fields += (read_id(reader, field, receiver),)
        elif field in ("u8", "u32"):
            fields += (reader.number(int(field[1:]) // 8),)
        elif field == "options":
            fields += read_options(reader)
        elif field in ("name", "text"):
            name = reader.take(reader.number(1 if field == "name" else 2))
        else:
            # Texts are looked at when all fields are there.
            if layout[1:2] == ["options"] and fields[3] is not None and len(fields[3]) <= MAX_METADATA:
                entries(fields[3])
            fields += (text(name),) if name is not None else ()
            fields += read_rest(reader, field, tracked=tracked)
    if reader.data:
        raise Wrong("after the id" if len(layout) == 1 else "after the last field")
    return fields


def read(message: bytes, receiver: Role, *, tracked: bool = False) -> Fields | str:
    """The fields of a message, or a word on what is wrong with it."""
    if message == b"":
        return "empty"
    opcode = message[0]
    if opcode == 0:
        return "opcode 0"
    if opcode not in KINDS:
        return ("ignored", opcode)
    kind, layout = KINDS[opcode]
    try:
        return (kind, *read_fields(Reader(message[1:]), layout.split(), receiver, tracked=tracked))
    except Wrong as fault:
        return str(fault)


def write(fields: Fields) -> bytes:
    """The message that has these fields."""
    kind, *values = fields
    opcode = OPCODES[kind]
    message = bytes([opcode])
    for field in KINDS[opcode][1].split():
        if field.startswith("id") or field == "u32":
            message += values.pop(0).to_bytes(4, "big")
        elif field == "u8":
            message += bytes([values.pop(0)])
        elif field == "options":
            flags, timeout, metadata = values.pop(0), values.pop(0), values.pop(0)
            message += bytes([flags])
            message += b"" if timeout is None else timeout.to_bytes(4, "big")
            message += b"" if metadata is None else len(metadata).to_bytes(2, "big") + metadata
        elif field in ("name", "text"):
            encoded = values.pop(0).encode()
            message += len(encoded).to_bytes(1 if field == "name" else 2, "big") + encoded
        elif field == "item":
            cursor, payload = values
            message += b"" if cursor is None else bytes([len(cursor)]) + cursor
            message += payload
        else:
            rest = values.pop(0)
            message += rest.encode() if isinstance(rest, str) else rest
    return message


def make(fields: Fields) -> Any:
    """The codec's frame with these fields."""
    return getattr(wire, fields[0].capitalize())(*fields[1:])


def check_message(message: bytes, receiver: Role, *, tracked: bool = False) -> Fields | str:
    """Fail unless the codec takes a message for what the oracle takes it; returns what that is."""
    expected = read(message, receiver, tracked=tracked)
    found: Fields | str
    try:
        frame = wire.parse_message(message, receiver=receiver, protocol="sockrpc.v1", tracked=tracked)
        found = (type(frame).__name__.lower(), *frame)
    except ProtocolError as error:
        found = f"{error.code}: {error.reason}"
    if isinstance(expected, str):
        assert isinstance(found, str), (expected, found)
        assert found.startswith("1002: "), (expected, found)
        assert expected in found, (expected, found)
    else:
        assert found == expected
        if not isinstance(frame, wire.Ignored):
            assert wire.serialize_frame(frame) == message == write(expected)
    return expected
