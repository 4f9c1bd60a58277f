"""The WebSocket level by itself: every kind of frame, every length, every split, every fault."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from itertools import combinations, pairwise

import pytest

from sockrpc.errors import UsageError
from sockrpc.testing.wire import OPCODES, feed, serialize
from sockrpc.websocket.parser import Parser
from tests.kit.support import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, exclusive_or, frame

Events = list[tuple[str, bytes]]

SIZES = [0, 1, 125, 126, 127, 65535, 65536, 65537]


@pytest.fixture(params=["server", "client"])
def role(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def new_parser(role: str, max_message_bytes: int = 1 << 20) -> Parser:
    return Parser("server" if role == "server" else "client", max_message_bytes)


def to(role: str, opcode: int, payload: bytes = b"", *, final: bool = True) -> bytes:
    """A frame as this role receives it."""
    return frame(opcode, payload, final=final, masked=role == "server")


def fault(code: int, reason: str) -> tuple[str, bytes]:
    return "fault", struct.pack("!H", code) + reason.encode()


def payload_of(size: int) -> bytes:
    return (bytes(range(97, 123)) * (size // 26 + 1))[:size]


# Serializing


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize("kind", ["continuation", "text", "binary"])
def test_a_data_frame_is_serialized_as_the_rfc_says(kind: str, size: int, final: bool) -> None:
    payload = payload_of(size)
    plain = serialize(kind, payload, masked=False, final=final)
    assert plain == frame(OPCODES[kind], payload, masked=False, final=final)
    assert unmasked(serialize(kind, payload, masked=True, final=final)) == plain


@pytest.mark.parametrize("size", [0, 1, 125])
@pytest.mark.parametrize("kind", ["close", "ping", "pong"])
def test_a_control_frame_is_serialized_as_the_rfc_says(kind: str, size: int) -> None:
    payload = payload_of(size)
    plain = serialize(kind, payload, masked=False)
    assert plain == frame(OPCODES[kind], payload, masked=False)
    assert unmasked(serialize(kind, payload, masked=True)) == plain


def unmasked(masked: bytes) -> bytes:
    """The same frame without its mask, which must be there; written down anew from RFC 6455 5.3."""
    assert masked[1] & 0x80
    start = {126: 4, 127: 10}.get(masked[1] & 0x7F, 2)
    key, payload = masked[start : start + 4], masked[start + 4 :]
    head = masked[:1] + bytes([masked[1] & 0x7F]) + masked[2:start]
    return head + exclusive_or(payload, key)


def test_every_masked_frame_has_a_mask_of_its_own() -> None:
    # Several refills of the pool of masks; of so few among 2**32, hardly two are equal.
    masks = [serialize("ping", b"", masked=True)[2:] for _ in range(5000)]
    assert {len(mask) for mask in masks} == {4}
    assert len(set(masks)) > 4990
    # Nor is any part of one in the next, which would make it easy to guess.
    for shift in (1, 2):
        assert sum(one[shift:] == other[:-shift] for one, other in pairwise(masks)) < 5
    for i in range(4):
        assert len({mask[i] for mask in masks}) == 256


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_forked_child_does_not_repeat_its_parent_s_masks() -> None:
    program = """
import os
from sockrpc.testing.wire import serialize

def masks():
    return b"".join(serialize("ping", b"", masked=True)[2:] for _ in range(8))

masks()  # the pool is full, and in use
reading, writing = os.pipe()
if os.fork() == 0:
    os.write(writing, masks())
    os._exit(0)
os.wait()
theirs = os.read(reading, 100)
print(len(theirs), theirs != masks())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["32", "True"]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", ["close", "ping", "pong"])
def test_a_control_frame_that_is_too_long_or_in_fragments_is_not_serialized(kind: str, masked: bool) -> None:
    with pytest.raises(UsageError, match="at most 125 bytes"):
        serialize(kind, bytes(126), masked=masked)
    with pytest.raises(UsageError, match="in one piece"):
        serialize(kind, b"", masked=masked, final=False)


# Whole frames


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["text", "binary"])
def test_a_message_of_any_length_comes_out_whole(role: str, kind: str, size: int) -> None:
    payload = payload_of(size)
    assert feed(new_parser(role), to(role, OPCODES[kind], payload)) == [(kind, payload)]


@pytest.mark.parametrize("size", [0, 1, 124, 125])
@pytest.mark.parametrize("kind", ["ping", "pong"])
def test_a_control_frame_of_any_length_comes_out_whole(role: str, kind: str, size: int) -> None:
    payload = bytes(range(size))
    assert feed(new_parser(role), to(role, OPCODES[kind], payload)) == [(kind, payload)]


def test_many_frames_in_one_read_come_out_in_order(role: str) -> None:
    frames = [(i % 3, payload_of(i)) for i in range(100)]
    stream = b"".join(to(role, (BINARY, PING, TEXT)[which], payload) for which, payload in frames)
    assert feed(new_parser(role), stream) == [(("binary", "ping", "text")[w], p) for w, p in frames]


def test_parsing_does_not_change_the_bytes_that_were_fed(role: str) -> None:
    stream = to(role, BINARY, b"payload") + to(role, BINARY, b"cut")[:-1]
    before = bytes(bytearray(stream))
    feed(new_parser(role), stream)
    assert stream == before


def test_an_empty_read_is_nothing(role: str) -> None:
    parser = new_parser(role)
    assert feed(parser, b"") == []
    message = to(role, TEXT, b"hi")
    assert [feed(parser, part) for part in (message[:3], b"", message[3:])] == [[], [], [("text", b"hi")]]


# Masks


def test_masks_are_removed_at_every_offset_and_of_every_length() -> None:
    for offset in range(9):
        for size in range(42):
            payload = bytes((7 * i + size) & 0xFF for i in range(size))
            stream = (
                to("server", PONG, bytes(offset)) + to("server", BINARY, payload) + to("server", PONG, b"!")
            )
            expected = [("pong", bytes(offset)), ("binary", payload), ("pong", b"!")]
            assert feed(new_parser("server"), stream) == expected, (offset, size)


@pytest.mark.parametrize("size", [125, 126, 65535, 65536])
def test_masks_are_removed_from_a_frame_that_arrives_in_pieces(size: int) -> None:
    payload = bytes(i % 251 for i in range(size))
    stream = frame(BINARY, payload)
    parser = new_parser("server")
    events = [event for i in range(0, len(stream), 61) for event in feed(parser, stream[i : i + 61])]
    assert events == [("binary", payload)]


# Segmentation


def small_stream(role: str) -> tuple[bytes, Events]:
    """All kinds of frames, one with an extended length, two fragmented messages, a close."""
    long = payload_of(126)
    stream = b"".join(
        [
            to(role, PING, b"p"),
            to(role, TEXT, "é👀".encode()[:3], final=False),
            to(role, PONG, b""),
            to(role, CONTINUATION, "é👀".encode()[3:]),
            to(role, BINARY, long),
            to(role, BINARY, b"", final=False),
            to(role, CONTINUATION, b"ab", final=False),
            to(role, CONTINUATION, b""),
            to(role, CLOSE, b"\x03\xe8bye"),
        ]
    )
    events = [
        ("ping", b"p"),
        ("pong", b""),
        ("text", "é👀".encode()),
        ("binary", long),
        ("binary", b"ab"),
        ("close", b"\x03\xe8bye"),
    ]
    return stream, events


def test_every_split_in_two_and_in_three_gives_the_same_events(role: str) -> None:
    stream, expected = small_stream(role)
    for first, second in combinations(range(len(stream) + 1), 2):
        parser = new_parser(role)
        events = (
            feed(parser, stream[:first]) + feed(parser, stream[first:second]) + feed(parser, stream[second:])
        )
        assert events == expected, (first, second)


def test_byte_by_byte_gives_the_same_events(role: str) -> None:
    stream, expected = small_stream(role)
    parser = new_parser(role)
    assert [event for i in range(len(stream)) for event in feed(parser, stream[i : i + 1])] == expected


def test_an_event_comes_with_its_last_byte(role: str) -> None:
    stream = to(role, TEXT, b"one") + to(role, PING, b"two")
    size = len(to(role, TEXT, b"one"))
    parser = new_parser(role)
    assert feed(parser, stream[: size - 1]) == []
    assert feed(parser, stream[size - 1 : size + 1]) == [("text", b"one")]
    assert feed(parser, stream[size + 1 :]) == [("ping", b"two")]


def test_a_long_header_may_be_split_anywhere(role: str) -> None:
    payload = payload_of(65536)
    stream = to(role, BINARY, payload)
    for cut in [*range(18), len(stream) - 1]:
        parser = new_parser(role)
        assert feed(parser, stream[:cut]) == []
        assert feed(parser, stream[cut:]) == [("binary", payload)], cut


# Fragmentation


def test_control_frames_may_stand_between_fragments(role: str) -> None:
    stream = b"".join(
        [
            to(role, TEXT, b"a", final=False),
            to(role, PING, b"1"),
            to(role, CONTINUATION, b"b", final=False),
            to(role, PONG, b"2"),
            to(role, PING, b"3"),
            to(role, CONTINUATION, b"c"),
        ]
    )
    expected = [("ping", b"1"), ("pong", b"2"), ("ping", b"3"), ("text", b"abc")]
    assert feed(new_parser(role), stream) == expected


def test_fragmented_messages_do_not_run_into_each_other(role: str) -> None:
    parser = new_parser(role)

    def fragmented(opcode: int, *parts: bytes) -> bytes:
        head = to(role, opcode, parts[0], final=False)
        middle = [to(role, CONTINUATION, part, final=False) for part in parts[1:-1]]
        return b"".join([head, *middle, to(role, CONTINUATION, parts[-1])])

    longest = payload_of(2000)
    stream = (
        fragmented(BINARY, longest, b"end")
        + to(role, TEXT, b"whole")
        + fragmented(TEXT, b"x", b"", b"y")
        + fragmented(BINARY, b"", b"")
    )
    expected = [("binary", longest + b"end"), ("text", b"whole"), ("text", b"xy"), ("binary", b"")]
    assert feed(parser, stream) == expected
    assert feed(parser, stream) == expected


def test_a_character_may_be_split_between_fragments_but_must_end_in_the_message(role: str) -> None:
    euro = "€".encode()
    for cut in range(len(euro) + 1):
        stream = to(role, TEXT, euro[:cut], final=False) + to(role, CONTINUATION, euro[cut:])
        assert feed(new_parser(role), stream) == [("text", euro)]
    stream = to(role, TEXT, euro[:1], final=False) + to(role, CONTINUATION, euro[1:2])
    assert feed(new_parser(role), stream) == [fault(1007, "text message is not UTF-8")]


@pytest.mark.parametrize(
    ("parts", "found_at"),
    [
        ([b"ok", b"\xff", b"ok"], 1),
        ([b"\xff", b"", b"ok"], 0),
        ([b"\xf4", b"\x90", b"\x80\x80"], 1),
        (["€".encode()[:2], b"x", b""], 1),
        ([b"", "€".encode()[:1], "€".encode()[1:] + b"\x80"], 2),
        ([b"a", "€".encode()[:1], "€".encode()[:1]], 2),
    ],
)
def test_text_that_is_wrong_is_refused_with_the_fragment_that_shows_it(
    role: str, parts: list[bytes], found_at: int
) -> None:
    parser = new_parser(role)
    for n, part in enumerate(parts):
        events = feed(parser, to(role, CONTINUATION if n else TEXT, part, final=n == len(parts) - 1))
        assert events == ([fault(1007, "text message is not UTF-8")] if n == found_at else []), n
        if events:
            break


def test_a_close_frame_may_stand_between_fragments(role: str) -> None:
    stream = to(role, TEXT, b"a", final=False) + to(role, CLOSE, b"\x03\xe9") + to(role, CONTINUATION, b"b")
    assert feed(new_parser(role), stream) == [("close", b"\x03\xe9")]


# Compression: what is compressed comes out as it came in


def compressing_parser(role: str, max_message_bytes: int = 1 << 20) -> Parser:
    return Parser("server" if role == "server" else "client", max_message_bytes, compression=True)


def reserved_1(role: str, opcode: int, payload: bytes = b"", *, final: bool = True) -> bytes:
    return frame(opcode, payload, final=final, masked=role == "server", reserved=4)


@pytest.mark.parametrize("kind", ["text", "binary"])
def test_compressed_messages_come_out_as_such(role: str, kind: str) -> None:
    # \xff: not UTF-8, and not to be judged before it is decompressed.
    parser, opcode = compressing_parser(role), OPCODES[kind]
    stream = (
        reserved_1(role, opcode, b"\xffwhole")
        + reserved_1(role, opcode, b"\xff", final=False)
        + to(role, PING, b"p")
        + to(role, CONTINUATION, b"\xff", final=False)
        + to(role, CONTINUATION, b"")
        + reserved_1(role, opcode)
        + to(role, opcode, b"plain")
        + to(role, opcode, b"pl", final=False)
        + to(role, CONTINUATION, b"ain")
    )
    compressed, plain = f"compressed {kind}", (kind, b"plain")
    expected = [(compressed, b"\xffwhole"), ("ping", b"p"), (compressed, b"\xff\xff"), (compressed, b"")]
    for step in (len(stream), 1, 3):
        events = [event for i in range(0, len(stream), step) for event in feed(parser, stream[i : i + step])]
        assert events == [*expected, plain, plain], step


@pytest.mark.parametrize("reserved", range(1, 8))
@pytest.mark.parametrize("opcode", [CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG])
def test_compression_allows_one_reserved_bit_in_the_first_frame_of_a_message(
    role: str, opcode: int, reserved: int
) -> None:
    parser = compressing_parser(role)
    stream = b""
    if opcode == CONTINUATION:
        stream = reserved_1(role, BINARY, final=False)
    stream += frame(opcode, b"", masked=role == "server", reserved=reserved)
    if reserved == 4 and opcode in (TEXT, BINARY):
        assert feed(parser, stream) == [("compressed text" if opcode == TEXT else "compressed binary", b"")]
    else:
        assert feed(parser, stream) == [fault(1002, "reserved bits set")]


@pytest.mark.parametrize("limit", [100, 8000, 100_000])
def test_what_is_compressed_may_be_longer_than_the_limit_by_what_deflate_may_add(
    role: str, limit: int
) -> None:
    most = limit + limit // 8 + limit // 64 + 1024
    whole = reserved_1(role, BINARY, bytes(most))
    parts = reserved_1(role, BINARY, bytes(limit + 1), final=False)
    rest = most - limit - 1
    expected = [("compressed binary", bytes(most))]
    assert feed(compressing_parser(role, limit), whole) == expected
    assert feed(compressing_parser(role, limit), parts + to(role, CONTINUATION, bytes(rest))) == expected
    refused = [fault(1009, f"message over {limit} bytes")]
    assert feed(compressing_parser(role, limit), reserved_1(role, BINARY, bytes(most + 1))[:10]) == refused
    parts += to(role, CONTINUATION, bytes(rest), final=False)
    assert feed(compressing_parser(role, limit), parts + to(role, CONTINUATION, b"x")[:2]) == refused
    # What is not compressed is no longer than before, also after what was.
    parser = compressing_parser(role, limit)
    assert feed(parser, whole) == expected
    assert feed(parser, to(role, BINARY, bytes(limit + 1))[:10]) == refused
