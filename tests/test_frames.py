"""The RPC frames against the shared vectors, at their edges, and against random bytes."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sockrpc._frames import SUBPROTOCOL, encode
from sockrpc.errors import ProtocolError, UsageError
from sockrpc.testing.wire import Notify, Request, Reset, Response, parse_message, serialize_frame
from tests.kit.properties import examples

Side = Literal["server", "client"]
Frame = Notify | Request | Reset | Response

SIDES: tuple[Side, ...] = ("server", "client")
VECTORS = json.loads(Path(__file__).with_name("vectors.json").read_text(encoding="utf-8"))
OTHER: dict[str, Side] = {"client": "server", "server": "client"}
U32 = 2**32 - 1
PROPERTY = examples(300)


def name_of_vector(vector: dict[str, Any]) -> str:
    return f"{vector.get('sender') or vector['receiver']}-{vector['meaning']}".replace(" ", "_")


def frame_of_vector(frame: dict[str, Any]) -> Frame:
    payload = bytes.fromhex(frame.get("payload", ""))
    match frame["type"]:
        case "notify":
            return Notify(frame["name"], payload)
        case "request":
            return Request(frame["id"], frame["name"], payload)
        case "reset":
            return Reset(frame["id"])
        case "response":
            return Response(frame["id"], payload)
    raise AssertionError(frame)


# The vectors


def test_the_subprotocol_is_the_one_of_the_vectors() -> None:
    assert VECTORS["subprotocol"] == SUBPROTOCOL


@pytest.mark.parametrize("vector", VECTORS["valid"], ids=name_of_vector)
def test_a_valid_vector_is_parsed_and_serialized(vector: dict[str, Any]) -> None:
    message = bytes.fromhex(vector["hex"])
    expected = frame_of_vector(vector["frame"])
    parsed = parse_message(message, receiver=OTHER[vector["sender"]])
    assert type(parsed) is type(expected)
    assert parsed == expected
    assert serialize_frame(expected) == message


@pytest.mark.parametrize("vector", VECTORS["invalid"], ids=name_of_vector)
def test_an_invalid_vector_is_refused_with_1002_and_its_fault(vector: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_message(bytes.fromhex(vector["hex"]), receiver=vector["receiver"])
    assert caught.value.code == 1002
    assert vector["reason"] in caught.value.reason


# Which side receives what


@pytest.mark.parametrize(("receiver", "mine"), [("server", {1, 2, 3}), ("client", {1, 4})])
def test_each_side_receives_its_own_opcodes_only(receiver: Side, mine: set[int]) -> None:
    for opcode in range(256):
        # Long enough, and its name short enough, for every layout.
        message = bytes([opcode]) + b"\x00\x00\x00\x00" + (b"" if opcode == 3 else b"\x00")
        if opcode in mine:
            parse_message(message, receiver=receiver)
            continue
        with pytest.raises(ProtocolError, match="opcode") as caught:
            parse_message(message, receiver=receiver)
        assert ("never receives" in caught.value.reason) == (1 <= opcode <= 4)


@pytest.mark.parametrize("receiver", ["", "Server", "peer"], ids=repr)
def test_there_is_no_third_side(receiver: Any) -> None:
    with pytest.raises(ValueError, match="'server' or 'client'"):
        parse_message(b"\x01\x00", receiver=receiver)


# Truncation, byte by byte


@pytest.mark.parametrize(
    ("frame", "receiver", "header"),
    [
        (Notify("name", b"payload"), "server", 6),
        (Notify("name", b"payload"), "client", 6),
        (Request(0x01020304, "name", b"payload"), "server", 10),
        (Reset(0x01020304), "server", 5),
        (Response(0x01020304, b"payload"), "client", 5),
    ],
    ids=repr,
)
def test_a_frame_cut_in_its_header_is_refused_and_one_cut_in_its_payload_is_shorter(
    frame: Frame, receiver: Side, header: int
) -> None:
    message = serialize_frame(frame)
    for size in range(header):
        with pytest.raises(ProtocolError, match="empty" if size == 0 else "short") as caught:
            parse_message(message[:size], receiver=receiver)
        assert caught.value.code == 1002
    for size in range(header, len(message) + 1):
        parsed = parse_message(message[:size], receiver=receiver)
        assert parsed == (frame if isinstance(frame, Reset) else frame._replace(payload=message[header:size]))


# Ids


@pytest.mark.parametrize("id", [0, 1, 0x7FFFFFFF, 0x80000000, 0x01020304, U32])
def test_every_id_is_legal_and_big_endian(id: int) -> None:
    encoded = struct.pack("!I", id)
    assert serialize_frame(Request(id, "a", b"x")) == b"\x02" + encoded + b"\x01ax"
    assert serialize_frame(Reset(id)) == b"\x03" + encoded
    assert serialize_frame(Response(id, b"x")) == b"\x04" + encoded + b"x"
    assert parse_message(b"\x02" + encoded + b"\x01ax", receiver="server") == Request(id, "a", b"x")
    assert parse_message(b"\x03" + encoded, receiver="server") == Reset(id)
    assert parse_message(b"\x04" + encoded + b"x", receiver="client") == Response(id, b"x")


@pytest.mark.parametrize("id", [-1, 2**32, 2**64, -(2**32)])
def test_a_sender_refuses_an_id_that_is_no_u32(id: int) -> None:
    for frame in (Request(id, "a", b""), Reset(id), Response(id, b"")):
        with pytest.raises(UsageError, match="32-bit"):
            serialize_frame(frame)


# Names


@pytest.mark.parametrize("name", ["", "a" * 255, "é" * 127 + "a", "€" * 85, "\x00", "👀" * 63], ids=repr)
def test_a_name_of_up_to_255_bytes_goes_through(name: str) -> None:
    encoded = name.encode()
    assert encode(name, b"") == (encoded, b"")
    message = serialize_frame(Notify(name, b"x"))
    assert message == b"\x01" + bytes([len(encoded)]) + encoded + b"x"
    assert parse_message(message, receiver="client") == Notify(name, b"x")


@pytest.mark.parametrize("name", ["a" * 256, "é" * 128, "👀" * 64, "a" * 100_000], ids=len)
def test_a_sender_refuses_a_name_of_more_than_255_bytes(name: str) -> None:
    for refuse in (
        lambda: encode(name, b""),
        lambda: serialize_frame(Notify(name, b"")),
        lambda: serialize_frame(Request(1, name, b"")),
    ):
        with pytest.raises(UsageError, match="255"):
            refuse()


@pytest.mark.parametrize("name", [b"bytes", None, 1, bytearray(b"a")], ids=repr)
def test_a_name_that_is_no_string_is_a_usage_error(name: Any) -> None:
    with pytest.raises(UsageError, match="str"):
        encode(name, b"")


def test_a_name_that_can_not_be_encoded_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="UTF-8"):
        encode("\ud800", b"")


@pytest.mark.parametrize(
    "encoded",
    [b"\xff", b"\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"a\x80"],
    ids=bytes.hex,
)
def test_a_received_name_is_strict_utf8(encoded: bytes) -> None:
    tail = bytes([len(encoded)]) + encoded
    for message, receiver in ((b"\x01" + tail, "client"), (b"\x02\x00\x00\x00\x01" + tail, "server")):
        with pytest.raises(ProtocolError, match="UTF-8") as caught:
            parse_message(message, receiver=receiver)  # type: ignore[arg-type]
        assert caught.value.code == 1002


def test_a_payload_need_not_be_utf8() -> None:
    every = bytes(range(256))
    assert parse_message(b"\x01\x00" + every, receiver="server") == Notify("", every)


# Payloads


class Bytes(bytes):
    pass


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ("", b""),
        ("é👀", "é👀".encode()),
        (b"bytes", b"bytes"),
        (Bytes(b"subclass"), b"subclass"),
        (bytearray(b"array"), b"array"),
        (memoryview(b"view"), b"view"),
        (memoryview(b"every other")[::2], b"eeyohr"),
        (memoryview(struct.pack("=2I", 1, 2)).cast("I"), struct.pack("=2I", 1, 2)),
    ],
    ids=repr,
)
def test_what_a_payload_may_be(payload: Any, expected: bytes) -> None:
    _, encoded = encode("name", payload)
    assert encoded == expected
    assert type(encoded) is bytes
    assert serialize_frame(Response(1, payload)) == b"\x04\x00\x00\x00\x01" + expected


@pytest.mark.parametrize("payload", [None, 1, 1.5, ["a"], {"a": 1}, object(), [98]], ids=repr)
def test_another_payload_is_a_type_error(payload: Any) -> None:
    with pytest.raises(TypeError, match=type(payload).__name__):
        encode("name", payload)


def test_a_payload_that_may_change_is_copied() -> None:
    array = bytearray(b"before")
    _, encoded = encode("name", array)
    array[:] = b"after!"
    assert encoded == b"before"


def test_bytes_are_not_copied() -> None:
    payload = bytes(100)
    assert encode("name", payload)[1] is payload


# Properties

names = st.text(max_size=255).filter(lambda name: len(name.encode()) <= 255)
ids = st.integers(0, U32)
frames: st.SearchStrategy[Frame] = st.one_of(
    st.builds(Notify, names, st.binary()),
    st.builds(Request, ids, names, st.binary()),
    st.builds(Reset, ids),
    st.builds(Response, ids, st.binary()),
)


def receivers(frame: Frame) -> tuple[Side, ...]:
    match frame:
        case Notify():
            return SIDES
        case Response():
            return ("client",)
    return ("server",)


@PROPERTY
@given(frames)
def test_what_is_serialized_is_parsed_again(frame: Frame) -> None:
    for side in SIDES:
        if side in receivers(frame):
            parsed = parse_message(serialize_frame(frame), receiver=side)
            assert type(parsed) is type(frame)
            assert parsed == frame
        else:
            with pytest.raises(ProtocolError):
                parse_message(serialize_frame(frame), receiver=side)


@PROPERTY
@given(
    st.one_of(
        st.binary(),
        st.builds(lambda opcode, rest: bytes([opcode]) + rest, st.integers(0, 5), st.binary(max_size=300)),
    ),
    st.sampled_from(SIDES),
)
@example(b"\x02\xff\xff\xff\xff\xff" + b"a" * 254, "server")
@example(b"\x01\xff", "client")
def test_random_bytes_are_a_frame_or_a_protocol_error(message: bytes, side: Side) -> None:
    frame: Frame | None = None
    fault: ProtocolError | None = None
    try:
        frame = parse_message(message, receiver=side)
    except ProtocolError as error:
        fault = error
    if frame is None:
        assert fault is not None
        assert fault.code == 1002
        assert fault.reason
    else:
        # Nothing was lost or made up: there is one way to write a frame.
        assert side in receivers(frame)
        assert serialize_frame(frame) == message
