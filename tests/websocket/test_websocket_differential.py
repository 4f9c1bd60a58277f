"""The WebSocket level against websockets' own, on random streams in random reads; see websocket_oracle.py."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sockrpc.testing.wire import serialize
from tests.kit.properties import examples
from tests.kit.streams import (
    LARGE_LIMIT,
    SMALL_LIMIT,
    Piece,
    Program,
    Role,
    Stream,
    broken_streams,
    ordinary_streams,
    programs,
    read_payload,
    streams,
)
from tests.kit.websocket_oracle import (
    KINDS,
    Events,
    check_bytes,
    check_stream,
    fault,
    ours,
    short,
    theirs,
)

pytestmark = pytest.mark.newest

roles = pytest.mark.parametrize("role", ["server", "client"])
some_cuts = st.lists(st.integers(0, 500), max_size=4)


@roles
@examples(150)
@given(stream=ordinary_streams)
def test_streams_of_messages_and_closes(role: Role, stream: Stream) -> None:
    check_stream(role, stream)


@roles
@examples(250)
@given(stream=broken_streams)
@example(Stream([Piece(1, b"a", final=False), Piece(8, b"\x03\xe8"), Piece(0, b"b")], []))
@example(Stream([Piece(8, b"\x00\x00\xff")], []))
@example(Stream([Piece(9, bytes(400))], []))
@example(Stream([Piece(0, bytes(400))], [3]))
@example(Stream([Piece(2, bytes(400), reserved=1)], []))
def test_streams_that_break_the_rules(role: Role, stream: Stream) -> None:
    check_stream(role, stream)


def read_messages(program: Program) -> Stream:
    """Messages without control frames: there, the limit of websockets is ours."""
    cuts = [program.word() for _ in range(program.byte() & 3)]
    lost = program.word()
    pieces: list[Piece] = []
    while program:
        how = program.byte()
        payload = read_payload(program, is_text=how & 3 == 3)
        end = program.word() % (len(payload) + 1) if how & 4 else len(payload)
        pieces.append(Piece(1 if how & 3 == 3 else 2, payload[:end], not how & 4))
        if how & 4:
            pieces.append(Piece(0, payload[end:]))
    return Stream(pieces, cuts, (SMALL_LIMIT, LARGE_LIMIT)[lost & 1], lost)


@roles
@examples(150)
@given(stream=programs.map(lambda data: read_messages(Program(data))))
def test_sizes_around_the_limit_in_streams_that_break_off(role: Role, stream: Stream) -> None:
    data = stream.to(role)
    expected = theirs(role, [data], stream.limit, own_limit=True)
    assert short(ours(role, stream.reads(data), stream.limit)) == expected


@roles
@pytest.mark.parametrize("opcode", [8, 9, 10])
@pytest.mark.parametrize("length_bytes", [2, 8])
def test_a_control_frame_with_a_long_length_is_refused_by_us_only(
    role: Role, opcode: int, length_bytes: int
) -> None:
    data = Piece(opcode, b"\x03\xe8", length_bytes=length_bytes).to(role)
    assert short(ours(role, [data[:2]], SMALL_LIMIT)) == [fault(1002)]
    assert theirs(role, [data], SMALL_LIMIT) == [(KINDS[opcode], b"\x03\xe8")]


@roles
@examples(200)
@given(
    stream=streams,
    noise=st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), max_size=3),
    cuts=some_cuts,
)
def test_noise(role: Role, stream: Stream, noise: list[tuple[int, int]], cuts: list[int]) -> None:
    # A stream some of whose bytes are random, for one of the two roles.
    data = bytearray(stream.to("server"))
    for at, value in noise:
        if data:
            data[at % len(data)] = value
    check_bytes(role, Stream([], cuts).reads(bytes(data)), stream.limit)


@roles
@examples(50)
@given(program=programs)
def test_what_we_serialize_is_understood(role: Role, program: bytes) -> None:
    reading = Program(program)
    frames: Events = []
    while reading:
        kind = reading.pick(["binary", "binary", "text", "ping", "pong"])
        payload = read_payload(reading, is_text=kind == "text")
        if kind == "text":
            payload = payload.decode(errors="ignore").encode()
        frames.append((kind, payload if kind in ("binary", "text") else payload[:125]))
    stream = b"".join(serialize(kind, payload, masked=role == "server") for kind, payload in frames)
    assert theirs(role, [stream], 1 << 20) == frames
    assert ours(role, [stream], 1 << 20) == frames
