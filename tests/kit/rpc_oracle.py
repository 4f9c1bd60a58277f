"""The RPC frames in plain Python, written from PROTOCOL.md alone: an oracle for `sockrpc._frames`."""

from __future__ import annotations

import struct
from typing import Any

from sockrpc.errors import ProtocolError
from sockrpc.testing.wire import Notify, Request, Reset, Response, parse_message, serialize_frame
from tests.kit.streams import Role

# (kind, fields ...) or the word that the reason of the fault must have
Fields = tuple[Any, ...]

OPCODES = {1: "notify", 2: "request", 3: "reset", 4: "response"}
RECEIVED = {"server": {1, 2, 3}, "client": {1, 4}}


def read(message: bytes, receiver: Role) -> Fields | str:
    """The fields of a message, or a word on what is wrong with it."""
    if message == b"":
        return "empty"
    opcode, rest = message[0], message[1:]
    if opcode not in OPCODES:
        return "unknown opcode"
    if opcode not in RECEIVED[receiver]:
        return "never receives"
    fields: Fields = (OPCODES[opcode],)
    if opcode != 1:
        if len(rest) < 4:
            return "too short for its id"
        fields += struct.unpack("!I", rest[:4])
        rest = rest[4:]
    if opcode == 3:
        return "bytes after" if rest else fields
    if opcode == 4:
        return (*fields, rest)
    if not rest or len(rest) - 1 < rest[0]:
        return "too short for its name"
    name, payload = rest[1 : 1 + rest[0]], rest[1 + rest[0] :]
    try:
        return (*fields, name.decode("utf-8"), payload)
    except UnicodeDecodeError:
        return "not UTF-8"


def write(fields: Fields) -> bytes:
    """The message that has these fields."""
    kind, *rest = fields
    message = bytes([dict(zip(OPCODES.values(), OPCODES, strict=True))[kind]])
    if kind != "notify":
        message += rest.pop(0).to_bytes(4, "big")
    if kind in ("notify", "request"):
        name = rest.pop(0).encode()
        message += len(name).to_bytes(1, "big") + name
    return message + b"".join(rest)


def check_message(message: bytes, receiver: Role) -> Fields | str:
    """Fail unless the codec takes a message for what the oracle takes it; returns what that is."""
    expected = read(message, receiver)
    found: Fields | str
    try:
        frame = parse_message(message, receiver=receiver)
        found = (type(frame).__name__.lower(), *frame)
    except ProtocolError as error:
        found = f"{error.code}: {error.reason}"
    if isinstance(expected, str):
        assert isinstance(found, str), (expected, found)
        assert found.startswith("1002: "), (expected, found)
        assert expected in found
    else:
        assert found == expected
        assert serialize_frame(frame) == message == write(expected)
    return expected


def make(fields: Fields) -> Notify | Request | Reset | Response:
    """The codec's frame with these fields."""
    classes = {"notify": Notify, "request": Request, "reset": Reset, "response": Response}
    return classes[fields[0]](*fields[1:])  # type: ignore[call-arg, no-any-return, misc]
