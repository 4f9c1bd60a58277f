"""The RPC frames against an oracle in plain Python, on random messages, whole and corrupted."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sockrpc.testing.wire import parse_message, serialize_frame
from tests.kit.properties import examples
from tests.kit.rpc_oracle import Fields, check_message, make, read, write
from tests.kit.streams import IDS, Program, Role, programs, read_rpc

pytestmark = pytest.mark.newest

roles = pytest.mark.parametrize("role", ["server", "client"])

ids = st.one_of(st.sampled_from(IDS), st.integers(0, 0xFFFFFFFF))
names = st.text(max_size=63) | st.sampled_from(["", "a" * 255, "é" * 127 + "a", "👀" * 63])
payloads = st.binary(max_size=40)
frames = st.one_of(
    st.tuples(st.just("notify"), names, payloads),
    st.tuples(st.just("request"), ids, names, payloads),
    st.tuples(st.just("reset"), ids),
    st.tuples(st.just("response"), ids, payloads),
)


@examples(150)
@given(fields=frames)
def test_what_either_builds_both_read(fields: Fields) -> None:
    message = write(fields)
    assert serialize_frame(make(fields)) == message
    for role in ("server", "client"):
        known = check_message(message, role)
        assert known in (fields, "never receives")


@roles
@examples(200)
@given(
    message=st.builds(
        lambda program, at, value: corrupt(read_rpc(Program(program)), at, value),
        programs,
        st.integers(0, 300),
        st.integers(-1, 255),
    )
)
@example(message=b"\x01\xff" + b"a" * 254)
@example(message=b"\x02\x00\x00\x00\x01\x02\xc3")
@example(message=b"\x03\x00\x00\x00\x01\x00")
def test_corrupted_messages(role: Role, message: bytes) -> None:
    check_message(message, role)


def corrupt(message: bytes, at: int, value: int) -> bytes:
    """The message with one byte set, or as it is."""
    if value < 0 or not message:
        return message
    at %= len(message)
    return message[:at] + bytes([value]) + message[at + 1 :]


@roles
def test_every_message_of_up_to_two_bytes(role: Role) -> None:
    messages = [b"", *(bytes([a]) for a in range(256))]
    messages += [bytes([a, b]) for a in range(6) for b in range(256)]
    kinds = {check_message(message, role) for message in messages}
    # Only one of them is right.
    right = ("notify", "", b"")
    short = {"too short for its id", "too short for its name"}
    assert kinds == {right, "empty", "unknown opcode", "never receives"} | short


@roles
def test_every_truncation_of_every_kind(role: Role) -> None:
    for fields in [
        ("notify", "näme", b"payload"),
        ("request", 0x01020304, "näme", b"payload"),
        ("reset", 0x01020304),
        ("response", 0x01020304, b"payload"),
    ]:
        message = write(fields)
        for size in range(len(message) + 1):
            check_message(message[:size], role)
        assert read(message, role) in (fields, "never receives")


def test_a_frame_may_be_built_of_what_was_read() -> None:
    message = b"\x02\xff\xff\xff\xff\x02\xc3\xa9payload"
    assert make(("request", 0xFFFFFFFF, "é", b"payload")) == parse_message(message, receiver="server")
