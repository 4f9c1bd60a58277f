"""The frames of `sockrpc.v1` against the shared vectors, at every cut, and against an oracle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sockrpc._frames import PROTOCOL_V1
from sockrpc.errors import ProtocolError, UsageError
from sockrpc.peer.metadata import decode, encode_metadata
from sockrpc.testing import wire
from tests.kit.properties import examples
from tests.kit.rpc_oracle_v1 import KINDS, Fields, check_message, make, read, write
from tests.kit.streams import Role

VECTORS = json.loads(Path(__file__).with_name("vectors.json").read_text(encoding="utf-8"))["v1"]
ROLES: tuple[Role, ...] = ("server", "client")
OTHER: dict[str, Role] = {"client": "server", "server": "client"}
CLIENTS, SERVERS = 1, 1 << 31
BYTES = {"payload", "cursor", "details"}

roles = pytest.mark.parametrize("role", ROLES)


def name_of_vector(vector: dict[str, Any]) -> str:
    return f"{vector.get('sender') or vector['receiver']}-{vector['meaning']}".replace(" ", "_")


def fields_of_vector(frame: dict[str, Any]) -> Fields:
    values = {name: value for name, value in frame.items() if name != "type"}
    if frame["type"] == "item":
        values = {"id": frame["id"], "cursor": frame.get("cursor"), "payload": frame["payload"]}
    for name, value in values.items():
        if name in BYTES and value is not None:
            values[name] = bytes.fromhex(value)
        elif name == "metadata" and value is not None:
            values[name] = encode_metadata({key: bytes.fromhex(each) for key, each in value.items()})
    return (frame["type"], *values.values())


# The vectors


def test_the_subprotocol_is_the_one_of_the_vectors() -> None:
    assert VECTORS["subprotocol"] == PROTOCOL_V1


@pytest.mark.parametrize("vector", VECTORS["valid"], ids=name_of_vector)
def test_a_valid_vector_is_parsed_and_serialized(vector: dict[str, Any]) -> None:
    message = bytes.fromhex(vector["hex"])
    expected = fields_of_vector(vector["frame"])
    tracked = "cursor" in vector["frame"]
    receiver = OTHER[vector["sender"]]
    parsed = wire.parse_message(message, receiver=receiver, protocol=PROTOCOL_V1, tracked=tracked)
    assert (type(parsed).__name__.lower(), *parsed) == expected
    assert check_message(message, receiver, tracked=tracked) == expected
    if vector["frame"].get("metadata"):
        found = decode(parsed.metadata)  # type: ignore[union-attr]
        assert {key: value.hex() for key, value in (found or {}).items()} == vector["frame"]["metadata"]


@pytest.mark.parametrize("vector", VECTORS["invalid"], ids=name_of_vector)
def test_an_invalid_vector_is_refused_with_1002_and_its_fault(vector: dict[str, Any]) -> None:
    message = bytes.fromhex(vector["hex"])
    with pytest.raises(ProtocolError) as caught:
        wire.parse_message(message, receiver=vector["receiver"], protocol=PROTOCOL_V1)
    assert caught.value.code == 1002
    assert vector["reason"] in caught.value.reason
    assert isinstance(check_message(message, vector["receiver"]), str)


def test_the_vectors_have_every_frame_from_each_side_that_may_send_it() -> None:
    found = {(vector["sender"], vector["frame"]["type"]) for vector in VECTORS["valid"]}
    kinds = {kind for kind, _ in KINDS.values()} | {"ignored"}
    assert {kind for _, kind in found} == kinds
    assert {kind for sender, kind in found if sender == "server"} >= kinds - {"hello", "pong"}


# Every cut


WHOLE: list[tuple[Role, Fields]] = [
    ("server", ("notify", "näme", b"payload")),
    ("server", ("request", CLIENTS, "näme", b"payload")),
    ("client", ("request", SERVERS, "näme", b"payload")),
    ("server", ("reset", CLIENTS)),
    ("client", ("response", CLIENTS, b"payload")),
    ("server", ("open", CLIENTS, 0, None, None, "näme", b"payload")),
    ("server", ("open", CLIENTS, 0x3F, 7, encode_metadata({"a": "b", "c.d": b"\xff"}), "näme", b"payload")),
    ("client", ("open", SERVERS, 0x0D, 7, None, "", b"")),
    ("server", ("item", CLIENTS, None, b"payload")),
    ("client", ("item", CLIENTS, b"cursor", b"payload")),
    ("server", ("end", CLIENTS)),
    ("client", ("credit", SERVERS, 1 << 15)),
    ("client", ("error", CLIENTS, 5, 1, "nö", b"details")),
    ("server", ("error", SERVERS, 200, 2, "", b"")),
    ("server", ("hello", 0, 64, 1 << 16, 1 << 20, encode_metadata({"authorization": "x", "b": ""}))),
    ("client", ("goaway", 14, 10_000, "bye")),
    ("server", ("ping", b"payload")),
    ("client", ("pong", b"payload")),
]


@pytest.mark.parametrize(("receiver", "fields"), WHOLE, ids=[fields[0] for _, fields in WHOLE])
def test_every_cut_of_a_frame_is_read_as_the_oracle_does(receiver: Role, fields: Fields) -> None:
    message = write(fields)
    tracked = fields[0] == "item" and fields[2] is not None
    for size in range(len(message)):
        found = check_message(message[:size], receiver, tracked=tracked)
        assert found != fields
    assert check_message(message, receiver, tracked=tracked) == fields
    # With a byte more it is another frame, or none.
    assert check_message(message + b"\x00", receiver, tracked=tracked) != fields
    assert wire.serialize_frame(make(fields)) == message


@pytest.mark.parametrize(("receiver", "fields"), WHOLE, ids=[fields[0] for _, fields in WHOLE])
def test_every_byte_of_a_frame_may_be_any_other(receiver: Role, fields: Fields) -> None:
    message = write(fields)
    tracked = fields[0] == "item" and fields[2] is not None
    for at in range(len(message)):
        for value in (0, 1, 0x7F, 0x80, 0xFF, message[at] ^ 1, message[at] ^ 0x80):
            changed = message[:at] + bytes([value]) + message[at + 1 :]
            for role in ROLES:
                check_message(changed, role, tracked=tracked)


@roles
def test_every_message_of_up_to_two_bytes(role: Role) -> None:
    messages = [b"", *(bytes([a]) for a in range(256))]
    messages += [bytes([a, b]) for a in range(15) for b in range(256)]
    for message in messages:
        check_message(message, role)


# Ids and sides


@roles
@pytest.mark.parametrize("opcode", [2, 3, 4, 5, 6, 7, 8, 9])
def test_the_top_bit_of_an_id_says_who_may_send_what(role: Role, opcode: int) -> None:
    of_caller = opcode in (2, 3, 5, 7)
    of_callee = opcode in (4, 9)
    tails = {2: b"\x00", 5: b"\x00\x00", 8: bytes(4), 9: bytes(4)}
    for id in (0, 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1):
        found = check_message(bytes([opcode]) + id.to_bytes(4, "big") + tails.get(opcode, b""), role)
        made_by_us = (id >= 1 << 31) == (role == "server")
        if id == 0:
            assert found == "id 0"
        elif (of_caller and made_by_us) or (of_callee and not made_by_us):
            assert found == "wrong side"
        else:
            assert found[1] == id


# Flags


def test_every_flags_of_an_open() -> None:
    for flags in range(256):
        tail = (bytes(4) if flags & 1 else b"") + (bytes(2) if flags & 2 else b"") + b"\x01a"
        found = check_message(b"\x05" + CLIENTS.to_bytes(4, "big") + bytes([flags]) + tail, "server")
        if flags >= 0x40:
            assert found == "flags"
        elif flags & 0x10 and not flags & 0x08:
            assert found == "flag 10"
        else:
            assert found[1:3] == (CLIENTS, flags)


# Sizes


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_536])
def test_a_ping_has_at_most_125_bytes(size: int) -> None:
    for opcode in (12, 13):
        found = check_message(bytes([opcode]) + bytes(size), "server")
        assert isinstance(found, str) == (size > 125)


def test_metadata_of_a_hello_has_16_kib_and_64_entries_at_most() -> None:
    head = write(("hello", 0, 0, 0, 0, b""))
    for data in (
        encode_metadata({"a": bytes(16_384 - 4)}),
        encode_metadata({f"k{n}": b"" for n in range(64)}),
    ):
        assert check_message(head + data, "server") == ("hello", 0, 0, 0, 0, data)
    for data in (
        b"\x01a" + (16_381).to_bytes(2, "big") + bytes(16_381),
        b"".join(b"\x03k%02d\x00\x00" % n for n in range(65)),
    ):
        assert check_message(head + data, "server") == "metadata"


def test_metadata_of_an_open_that_is_too_large_is_no_fault_of_the_frame() -> None:
    """The call is ended INVALID_ARGUMENT for it, so it is not even looked at."""
    for data in (b"\xff" * 16_385, b"\x01a" + (65_531).to_bytes(2, "big") + bytes(65_531)):
        message = b"\x05\x00\x00\x00\x01\x02" + len(data).to_bytes(2, "big") + data + b"\x01a"
        assert check_message(message, "server") == ("open", 1, 2, None, data, "a", b"")
    assert (
        check_message(b"\x05\x00\x00\x00\x01\x02\x40\x00" + b"\xff" * 16_384 + b"\x01a", "server")
        == "metadata"
    )


@pytest.mark.parametrize(
    "frame",
    [
        wire.Reset(-1),
        wire.Credit(1, 1 << 32),
        wire.Open(1, 1, 1 << 32, None, "a", b""),
        wire.Hello(0, 1 << 32, 0, 0, b""),
        wire.Goaway(1, -1, ""),
        wire.Open(1, 0, None, None, "a" * 256, b""),
    ],
    ids=repr,
)
def test_what_does_not_fit_its_field_is_a_usage_error(frame: Any) -> None:
    with pytest.raises(UsageError, match=r"32-bit|255"):
        wire.serialize_frame(frame)


# Properties

names = st.text(max_size=40) | st.sampled_from(["", "a" * 255, "é" * 127 + "a", "👀" * 63])
payloads = st.binary(max_size=40)
u8, u32 = st.integers(0, 255), st.integers(0, (1 << 32) - 1) | st.sampled_from([0, 1, (1 << 32) - 1])
ids = st.integers(1, (1 << 32) - 1) | st.sampled_from([1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1])
keys = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_.", min_size=1, max_size=9)
metadata = st.builds(encode_metadata, st.dictionaries(keys, payloads, max_size=5))


@st.composite
def opens(draw: st.DrawFn) -> Fields:
    flags = draw(st.integers(0, 0x3F))
    if flags & 0x10:
        flags |= 0x08
    timeout = draw(u32) if flags & 1 else None
    values = draw(metadata) if flags & 2 else None
    return ("open", draw(ids), flags, timeout, values, draw(names), draw(payloads))


frames: st.SearchStrategy[Fields] = st.one_of(
    st.tuples(st.just("notify"), names, payloads),
    st.tuples(st.just("request"), ids, names, payloads),
    st.tuples(st.just("reset"), ids),
    st.tuples(st.just("response"), ids, payloads),
    opens(),
    st.tuples(st.just("item"), ids, st.none() | payloads, payloads),
    st.tuples(st.just("end"), ids),
    st.tuples(st.just("credit"), ids, u32),
    st.tuples(st.just("error"), ids, u8, u8, names, payloads),
    st.tuples(st.just("hello"), u8, u32, u32, u32, metadata),
    st.tuples(st.just("goaway"), u8, u32, names),
    st.tuples(st.sampled_from(["ping", "pong"]), payloads),
)


@examples(300)
@given(fields=frames)
def test_what_either_builds_both_read(fields: Fields) -> None:
    message = write(fields)
    assert wire.serialize_frame(make(fields)) == message
    tracked = fields[0] == "item" and fields[2] is not None
    for role in ROLES:
        assert check_message(message, role, tracked=tracked) in (fields, "wrong side")


@examples(400)
@given(
    fields=frames,
    cut=st.integers(0, 400),
    at=st.integers(0, 400),
    value=st.integers(-1, 255),
    tail=st.binary(max_size=3),
    tracked=st.booleans(),
)
def test_corrupted_messages(
    fields: Fields, cut: int, at: int, value: int, tail: bytes, tracked: bool
) -> None:
    message = write(fields)
    if value >= 0:
        at %= len(message)
        message = message[:at] + bytes([value]) + message[at + 1 :]
    for role in ROLES:
        check_message(message[: len(message) - cut] + tail, role, tracked=tracked)


@examples(300)
@given(
    message=st.binary()
    | st.builds(lambda opcode, rest: bytes([opcode]) + rest, st.integers(0, 14), st.binary()),
    role=st.sampled_from(ROLES),
)
@example(message=b"\x05\x00\x00\x00\x01\x02\xff\xff" + b"a" * 20, role="server")
@example(message=b"\x09\x00\x00\x00\x01\x05\x01\xff\xff" + b"a" * 20, role="client")
def test_random_bytes_are_a_frame_or_a_protocol_error(message: bytes, role: Role) -> None:
    check_message(message, role)


def test_the_oracle_finds_what_is_wrong() -> None:
    assert read(b"\x05\x00\x00\x00\x01\x10\x01a", "server") == "flag 10"
    assert read(b"\x0a" + bytes(13), "server") == ("hello", 0, 0, 0, 0, b"")
