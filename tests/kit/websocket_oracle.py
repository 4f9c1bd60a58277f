"""What websockets' Sans-I/O protocols make of a stream, in our words and with our choices.

Where the two differ on purpose, it stands here:

- websockets leaves the UTF-8 of text messages to the layers above its Sans-I/O protocol; we refuse a text
  message with the fragment that makes it wrong, and do not wait for the rest.
- It refuses a close frame inside a fragmented message with 1002. RFC 6455 5.4 lets control frames
  stand between fragments and names no exception; we take the close for what it says.
- It reads a whole frame before it looks at its reserved bits and its kind, and a close reason before
  its close code; we go from front to back, so that a fault is found with the first byte that shows
  it. Where one frame has two faults, either code is right (RFC 6455 7.1.7 does not rank them).
- It takes a control frame of at most 125 bytes whose length is written in the long form, which RFC
  6455 5.2 forbids; we refuse it by its header. (Both take such a data frame.)
- Its size limit covers a control frame as well, together with the fragments before it; ours is for
  messages, as control frames are never longer than 125 bytes. So here its limit is off where there
  are control frames, and the oracle adds the sizes up itself.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Iterable, Sequence
from dataclasses import replace

from websockets.client import ClientProtocol
from websockets.extensions import Extension
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from sockrpc.testing.wire import feed
from sockrpc.websocket.parser import Parser
from tests.kit.pair import take_frames
from tests.kit.streams import LARGE_LIMIT, Piece, Role, Stream

Events = list[tuple[str, bytes]]

KINDS = {0: "continuation", 1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong"}
MAX_HEADER_BYTES = 14
# The faults that we may see in the header, before the frame is there.
EARLY = (1002, 1009)


def ours(role: Role, reads: Iterable[bytes], limit: int) -> Events:
    """Our events, from these reads."""
    parser = Parser(role, limit)
    return [event for read in reads for event in feed(parser, read)]


def make_oracle(
    role: Role, limit: int | None, extensions: Sequence[Extension] = ()
) -> ServerProtocol | ClientProtocol:
    """A protocol of websockets whose opening handshake is done."""
    protocol: ServerProtocol | ClientProtocol
    if role == "server":
        protocol = ServerProtocol(state=State.OPEN, max_size=limit)
    else:
        protocol = ClientProtocol(parse_uri("ws://localhost/"), state=State.OPEN, max_size=limit)
    protocol.extensions = list(extensions)
    return protocol


def theirs(
    role: Role,
    reads: Iterable[bytes],
    limit: int,
    *,
    own_limit: bool = False,
    extensions: Sequence[Extension] = (),
) -> Events:
    """The events of websockets, from these reads."""
    protocol = make_oracle(role, limit if own_limit else None, extensions)
    for read in reads:
        protocol.receive_data(read)
    events: Events = []
    opcode, message = 0, b""
    for event in protocol.events_received():
        assert isinstance(event, Frame)
        payload = bytes(event.data)
        if event.opcode in (Opcode.PING, Opcode.PONG):
            events.append((KINDS[event.opcode], payload))
        elif event.opcode is Opcode.CLOSE:
            events.append(("close", payload or struct.pack("!H", 1005)))
        else:
            opcode, message = event.opcode or opcode, message + payload
            if len(message) > limit:
                return [*events, fault(1009)]
            if opcode == Opcode.TEXT and not is_utf8(message, whole=event.fin):
                return [*events, fault(1007)]
            if not event.fin:
                continue
            events.append((KINDS[opcode], message))
            message = b""
    error = protocol.parser_exc
    if error is None:
        return events
    if str(error) == "incomplete fragmented message":
        assert protocol.close_rcvd is not None
        close = protocol.close_rcvd
        return [*events, ("close", struct.pack("!H", close.code) + close.reason.encode())]
    assert protocol.close_sent is not None
    return [*events, fault(int(protocol.close_sent.code))]


def written_by_theirs(role: Role, reads: Iterable[bytes]) -> list[tuple[int, bytes]]:
    """The frames that websockets writes while it receives these reads: pongs and at most one close."""
    protocol = make_oracle(role, None)
    for read in reads:
        protocol.receive_data(read)
    return take_frames(bytearray(b"".join(protocol.data_to_send())))


def fault(code: int) -> tuple[str, bytes]:
    return "fault", struct.pack("!H", code)


def is_utf8(data: bytes, *, whole: bool = True) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data, whole)
    except UnicodeDecodeError:
        return False
    return True


def short(events: Events) -> Events:
    """The reasons of faults differ in their words."""
    return [(kind, payload[:2] if kind == "fault" else payload) for kind, payload in events]


def with_one_fault(piece: Piece) -> Piece:
    """A close frame whose code and reason are both wrong, without its reason."""
    if piece.opcode == 8 and len(piece.payload) >= 2:
        code, reason = piece.payload[:2], piece.payload[2:]
        if not is_utf8(reason) and theirs("client", [Piece(8, code).to("client")], 125) == [fault(1002)]:
            return replace(piece, payload=code)
    return piece


def check_stream(role: Role, stream: Stream) -> None:
    """Fail unless both parsers take a stream for the same, whatever the reads."""
    data = stream.to(role)
    reads = stream.reads(data)
    if stream.lost:
        check_bytes(role, reads, stream.limit)
        return
    expected = replace(stream, pieces=[with_one_fault(piece) for piece in stream.pieces])
    theirs_reads = stream.reads(expected.to(role))
    assert short(ours(role, reads, stream.limit)) == theirs(role, theirs_reads, stream.limit)


def check_bytes(role: Role, reads: list[bytes], limit: int) -> None:
    """Fail unless both parsers take any bytes for the same, as far as that can be said of any bytes.

    Our fault may be found before the frame is there, and be another one of the two that a frame has.
    """
    data = b"".join(reads)
    events = ours(role, reads, limit)
    assert events == ours(role, [data], limit)
    mine, expected = short(events), theirs(role, [data], limit)
    if mine[-1:] not in [[fault(code)] for code in EARLY]:
        assert mine == expected
        return
    before = mine[:-1]
    if events[-1][1].endswith(b"control frame too long"):
        # See above; what that frame is to websockets comes next, if anything does.
        assert expected[: len(before)] == before
        return
    assert [event for event in expected if event[0] != "fault"] == before
    if expected == before:
        # They must find one, too, once the rest of that frame is there, or all that they take of it.
        rest = bytes(LARGE_LIMIT + MAX_HEADER_BYTES)
        if theirs(role, [data, rest], limit, own_limit=True)[-1:] != [fault(1009)]:
            expected = theirs(role, [data, rest], limit)
            assert expected[: len(before)] == before
            assert expected[len(before) :][:1] in [[fault(code)] for code in (1002, 1007, 1009)]
