"""What RFC 6455 forbids, with its close code; and that nothing is parsed after it."""

from __future__ import annotations

import struct

import pytest

from sockrpc.testing.wire import feed
from sockrpc.websocket.parser import Parser
from tests.kit.support import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame

pytestmark = pytest.mark.newest

VALID_CLOSE_CODES = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}


@pytest.fixture(params=["server", "client"])
def role(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def new_parser(role: str, max_message_bytes: int = 1 << 20) -> Parser:
    return Parser("server" if role == "server" else "client", max_message_bytes)


def to(
    role: str,
    opcode: int,
    payload: bytes = b"",
    *,
    final: bool = True,
    wrong: bool = False,
    reserved: int = 0,
) -> bytes:
    """A frame as this role receives it; with `wrong`, masked as it must not be."""
    return frame(opcode, payload, final=final, masked=(role == "server") != wrong, reserved=reserved)


def fault_of(parser: Parser, data: bytes) -> tuple[int, str]:
    """The code and reason of the fault that `data` must be, and nothing else."""
    ((kind, payload),) = feed(parser, data)
    assert kind == "fault"
    code, reason = struct.unpack("!H", payload[:2])[0], payload[2:].decode()
    assert (parser.close_code, parser.close_reason) == (code, reason)
    return code, reason


# Frames that are wrong from their header on


@pytest.mark.parametrize("reserved", range(1, 8))
@pytest.mark.parametrize("opcode", [CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG])
def test_reserved_bits(role: str, opcode: int, reserved: int) -> None:
    assert fault_of(new_parser(role), to(role, opcode, reserved=reserved)[:2]) == (1002, "reserved bits set")


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
@pytest.mark.parametrize("final", [True, False])
def test_reserved_opcodes(role: str, opcode: int, final: bool) -> None:
    assert fault_of(new_parser(role), to(role, opcode, final=final)[:2]) == (1002, "reserved opcode")


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_a_fragmented_control_frame(role: str, opcode: int) -> None:
    data = to(role, opcode, b"\x03\xe8", final=False)[:2]
    assert fault_of(new_parser(role), data) == (1002, "fragmented control frame")


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
@pytest.mark.parametrize("size", [126, 65536])
def test_a_control_frame_of_more_than_125_bytes(role: str, opcode: int, size: int) -> None:
    data = to(role, opcode, b"\x03\xe8" + bytes(size - 2))[:2]
    assert fault_of(new_parser(role), data) == (1002, "control frame too long")


@pytest.mark.parametrize("final", [True, False])
def test_a_continuation_without_a_message(role: str, final: bool) -> None:
    expected = (1002, "continuation without a message")
    wrong = to(role, CONTINUATION, final=final)[:2]
    assert fault_of(new_parser(role), wrong) == expected
    # Nor after a message that is complete.
    parser = new_parser(role)
    assert feed(parser, to(role, TEXT, b"whole")) == [("text", b"whole")]
    stream = to(role, TEXT, b"a", final=False) + to(role, CONTINUATION, b"b")
    assert feed(parser, stream) == [("text", b"ab")]
    assert fault_of(parser, wrong) == expected


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("final", [True, False])
def test_a_new_message_inside_a_fragmented_one(role: str, opcode: int, final: bool) -> None:
    parser = new_parser(role)
    # An empty first fragment opens a message too.
    assert feed(parser, to(role, BINARY, b"", final=False)) == []
    wrong = to(role, opcode, b"a", final=final)[:2]
    assert fault_of(parser, wrong) == (1002, "message inside a fragmented message")


@pytest.mark.parametrize("opcode", [TEXT, BINARY, CLOSE, PING, PONG])
def test_a_frame_masked_by_the_wrong_side(role: str, opcode: int) -> None:
    expected = (1002, "unmasked frame" if role == "server" else "masked frame")
    assert fault_of(new_parser(role), to(role, opcode, wrong=True)[:2]) == expected
    parser = new_parser(role)
    assert feed(parser, to(role, TEXT, b"a", final=False)) == []
    assert fault_of(parser, to(role, CONTINUATION, b"b", wrong=True)[:2]) == expected


# Close frames


def test_a_close_frame_may_be_empty(role: str) -> None:
    parser = new_parser(role)
    assert feed(parser, to(role, CLOSE)) == [("close", b"\x03\xed")]
    assert (parser.close_code, parser.close_reason) == (1005, "")


def test_a_close_frame_of_one_byte(role: str) -> None:
    assert fault_of(new_parser(role), to(role, CLOSE, b"\x03")) == (1002, "close frame of one byte")


def test_every_close_code_is_let_through_or_refused(role: str) -> None:
    for code in range(0x10000):
        payload = struct.pack("!H", code)
        parser = new_parser(role)
        if code in VALID_CLOSE_CODES:
            assert feed(parser, to(role, CLOSE, payload)) == [("close", payload)], code
            assert (parser.close_code, parser.close_reason) == (code, "")
        else:
            assert fault_of(parser, to(role, CLOSE, payload)) == (1002, "invalid close code"), code


@pytest.mark.parametrize("reason", ["", "bye", "a" * 123, "é" * 61, "👀"], ids=len)
def test_a_close_reason_comes_out(role: str, reason: str) -> None:
    parser = new_parser(role)
    payload = b"\x0f\xa0" + reason.encode()
    assert feed(parser, to(role, CLOSE, payload)) == [("close", payload)]
    assert (parser.close_code, parser.close_reason) == (4000, reason)


NOT_UTF8 = [
    b"\xff",  # never a byte of UTF-8
    b"\x80",  # a continuation byte alone
    b"\xc3",  # cut short
    b"\xc0\x80",  # overlong
    b"\xe0\x80\xaf",
    b"\xed\xa0\x80",  # a surrogate
    b"\xf4\x90\x80\x80",  # over U+10FFFF
    b"fine\xf0\x9f\x91",
]


@pytest.mark.parametrize("wrong", NOT_UTF8, ids=bytes.hex)
def test_a_close_reason_that_is_not_utf8(role: str, wrong: bytes) -> None:
    data = to(role, CLOSE, b"\x03\xe8" + wrong)
    assert fault_of(new_parser(role), data) == (1007, "close reason is not UTF-8")


# Text


@pytest.mark.parametrize("wrong", NOT_UTF8, ids=bytes.hex)
def test_a_text_that_is_not_utf8(role: str, wrong: bytes) -> None:
    expected = (1007, "text message is not UTF-8")
    assert fault_of(new_parser(role), to(role, TEXT, wrong)) == expected
    for cut in range(len(wrong) + 1):
        stream = to(role, TEXT, wrong[:cut], final=False) + to(role, CONTINUATION, wrong[cut:])
        assert fault_of(new_parser(role), stream) == expected


@pytest.mark.parametrize("wrong", NOT_UTF8, ids=bytes.hex)
def test_a_binary_message_need_not_be_utf8(role: str, wrong: bytes) -> None:
    assert feed(new_parser(role), to(role, BINARY, wrong)) == [("binary", wrong)]
    stream = to(role, BINARY, wrong, final=False) + to(role, CONTINUATION, wrong)
    assert feed(new_parser(role), stream) == [("binary", wrong * 2)]


# Size


@pytest.mark.parametrize("limit", [1, 125, 126, 1000, 65535, 65536, 70000])
def test_a_message_may_have_just_the_largest_size(role: str, limit: int) -> None:
    parser = new_parser(role, limit)
    assert feed(parser, to(role, BINARY, bytes(limit))) == [("binary", bytes(limit))]
    stream = b"".join(
        [
            to(role, BINARY, bytes(limit - 1), final=False),
            # Control frames do not count.
            to(role, PING, bytes(125)),
            to(role, CONTINUATION, b"1", final=False),
            to(role, CONTINUATION),
        ]
    )
    assert feed(parser, stream) == [("ping", bytes(125)), ("binary", bytes(limit - 1) + b"1")]
    # One message does not take from the next.
    assert feed(parser, to(role, BINARY, bytes(limit))) == [("binary", bytes(limit))]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize("limit", [1, 125, 126, 1000, 65535, 65536])
def test_a_message_over_the_limit_is_refused_by_its_declared_length(
    role: str, opcode: int, final: bool, limit: int
) -> None:
    data = to(role, opcode, bytes(limit + 1), final=final)
    header = len(data) - (limit + 1) - (4 if role == "server" else 0)
    parser = new_parser(role, limit)
    # Not a byte of mask or payload has arrived.
    assert feed(parser, data[: header - 1]) == []
    assert fault_of(parser, data[header - 1 : header]) == (1009, f"message over {limit} bytes")


@pytest.mark.parametrize("length", [2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1])
def test_absurd_lengths_are_refused(role: str, length: int) -> None:
    mask_bit = 0x80 if role == "server" else 0
    header = struct.pack("!BBQ", 0x80 | BINARY, mask_bit | 127, length)
    assert fault_of(new_parser(role), header)[0] == 1009
    parser = new_parser(role)
    assert feed(parser, to(role, BINARY, b"1", final=False)) == []
    header = struct.pack("!BBQ", 0x80 | CONTINUATION, mask_bit | 127, length)
    assert fault_of(parser, header)[0] == 1009


@pytest.mark.parametrize("width", [2, 8])
def test_an_incomplete_length_is_not_judged_by_what_lay_there_before(role: str, width: int) -> None:
    mask_bit = 0x80 if role == "server" else 0
    mark = {2: 126, 8: 127}[width]
    # 1,000 is 0x03e8; with any larger last byte it is over the limit.
    header = bytes([0x80 | BINARY, mask_bit | mark]) + (1000).to_bytes(width, "big")
    before = bytes([0x80 | PONG, mask_bit | 60]) + b"\xff" * (64 if role == "server" else 60)
    for cut in range(2, len(header)):
        parser = new_parser(role, 1000)
        assert feed(parser, before[:-1]) == []
        assert [kind for kind, _ in feed(parser, before[-1:] + header[:cut])] == ["pong"]
        assert feed(parser, b"") == []
        assert feed(parser, header[cut:]) == []


def test_the_sum_of_fragments_is_limited_by_declared_lengths(role: str) -> None:
    parser = new_parser(role, 100)
    assert feed(parser, to(role, BINARY, bytes(60), final=False)) == []
    assert feed(parser, to(role, CONTINUATION, bytes(40), final=False)) == []
    assert feed(parser, to(role, CONTINUATION, b"", final=False)) == []
    assert fault_of(parser, to(role, CONTINUATION, b"1")[:2]) == (1009, "message over 100 bytes")


# After the end


@pytest.mark.parametrize("end", ["close", "fault"])
def test_nothing_after_a_close_or_a_fault_is_parsed(role: str, end: str) -> None:
    last = to(role, CLOSE, b"\x03\xe8") if end == "close" else to(role, 3)
    parser = new_parser(role)
    events = feed(parser, to(role, TEXT, b"before") + last + to(role, TEXT, b"after") + to(role, 15))
    assert [kind for kind, _ in events] == ["text", end]
    code, reason = parser.close_code, parser.close_reason
    for data in (to(role, TEXT, b"later"), to(role, CLOSE, b"\x03\xe9later"), b"\xff" * 100, b""):
        assert feed(parser, data) == []
    assert (parser.close_code, parser.close_reason) == (code, reason)


def test_what_stood_before_a_fault_in_a_fragmented_message_is_not_delivered(role: str) -> None:
    parser = new_parser(role)
    stream = to(role, BINARY, b"a", final=False) + to(role, PING, b"b") + to(role, 3)
    assert [kind for kind, _ in feed(parser, stream)] == ["ping", "fault"]
    assert feed(parser, to(role, CONTINUATION, b"c")) == []


# The parser itself


def test_a_parser_has_one_of_two_roles() -> None:
    for wrong in ("Server", "", "both", None):
        with pytest.raises((ValueError, TypeError)):
            Parser(wrong)  # type: ignore[arg-type]


def test_the_default_limit_is_16_mib() -> None:
    header = struct.pack("!BBQ", 0x80 | BINARY, 127, 16 * 1024 * 1024)
    assert feed(Parser("client"), header) == []
    header = struct.pack("!BBQ", 0x80 | BINARY, 127, 16 * 1024 * 1024 + 1)
    assert fault_of(Parser("client"), header)[0] == 1009
