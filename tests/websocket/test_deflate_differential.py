"""Compressed messages (RFC 7692) in random streams, against websockets' framing and zlib itself.

websockets decompresses by the frame, so that it sees a fault earlier than we do, who decompress whole
messages. The oracle therefore takes only its framing from websockets, and hands whole messages to zlib.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from sockrpc.errors import ProtocolError
from sockrpc.testing.wire import feed
from sockrpc.websocket.deflate import Compression
from sockrpc.websocket.parser import Parser
from tests.kit.properties import examples
from tests.kit.streams import Piece, Program, Role, Stream, programs, read_stream
from tests.kit.websocket_oracle import KINDS, Events, fault, is_utf8, make_oracle, short, with_one_fault

pytestmark = pytest.mark.newest

TAIL = b"\x00\x00\xff\xff"
BITS = 12
roles = pytest.mark.parametrize("role", ["server", "client"])


class Marking(Extension):
    """Lets compressed frames through, and says which messages they begin."""

    name = "permessage-deflate"

    def __init__(self) -> None:
        self.marks: list[bool] = []

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
            self.marks.append(frame.rsv1)
            return replace(frame, rsv1=False)
        return frame

    def encode(self, frame: Frame) -> Frame:
        return frame


@dataclass
class Inflate:
    """zlib, as RFC 7692 7.2.2 has it."""

    takeover: bool

    def __post_init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.decoder = zlib.decompressobj(wbits=-BITS)

    def message(self, payload: bytes, limit: int) -> bytes | int:
        """The message, or the code of its fault."""
        try:
            data = self.decoder.decompress(payload + TAIL, limit + 1)
        except zlib.error:
            return 1002
        if len(data) > limit or self.decoder.unconsumed_tail:
            return 1009
        # 7.2.3.4: its stream has ended with the message.
        if self.decoder.eof or not self.takeover:
            self.renew()
        return data


def ours(role: Role, reads: list[bytes], limit: int, takeover: bool) -> Events:
    parser = Parser(role, limit, compression=True)
    extension = PerMessageDeflate(not takeover, not takeover, BITS, BITS)
    compression = Compression(extension)
    events: Events = []
    for read in reads:
        for event in feed(parser, read):
            kind = event[0].removeprefix("compressed ")
            if kind == event[0]:
                events.append(event)
                continue
            try:
                message = compression.decompress(event[1], limit)
            except ProtocolError as error:
                return [*events, fault(error.code)]
            if kind == "text" and not is_utf8(message):
                return [*events, fault(1007)]
            events.append((kind, message))
    return short(events)


def theirs(role: Role, data: bytes, limit: int, takeover: bool) -> Events:
    marking = Marking()
    protocol = make_oracle(role, None, [marking])
    protocol.receive_data(data)
    inflate = Inflate(takeover)
    events: Events = []
    opcode, message = 0, b""
    marks = iter(marking.marks)
    is_compressed = False
    # zlib makes what it can not compress longer by no more than this.
    most = limit + limit // 8 + limit // 64 + 1024
    for event in protocol.events_received():
        assert isinstance(event, Frame)
        payload = bytes(event.data)
        if event.opcode in (Opcode.PING, Opcode.PONG):
            events.append((KINDS[event.opcode], payload))
            continue
        if event.opcode is Opcode.CLOSE:
            events.append(("close", payload or (1005).to_bytes(2, "big")))
            continue
        if event.opcode is not Opcode.CONT:
            opcode, message, is_compressed = event.opcode, b"", next(marks)
        message += payload
        if len(message) > (most if is_compressed else limit):
            return [*events, fault(1009)]
        is_text = opcode == Opcode.TEXT
        if is_text and not is_compressed and not is_utf8(message, whole=event.fin):
            return [*events, fault(1007)]
        if event.fin:
            whole = inflate.message(message, limit) if is_compressed else message
            if isinstance(whole, int):
                return [*events, fault(whole)]
            if is_text and not is_utf8(whole):
                return [*events, fault(1007)]
            events.append((KINDS[opcode], whole))
    error = protocol.parser_exc
    if error is None:
        return events
    if str(error) == "incomplete fragmented message":
        assert protocol.close_rcvd is not None
        close = protocol.close_rcvd
        return [*events, ("close", close.code.to_bytes(2, "big") + close.reason.encode())]
    assert protocol.close_sent is not None
    return [*events, fault(int(protocol.close_sent.code))]


def deflated(stream: Stream, how: bytes) -> Stream:
    """The stream with most of its messages compressed; `how` chooses which, and which of those are spoilt."""
    choices = Program(how)
    encoder = zlib.compressobj(wbits=-BITS)
    pieces = list(stream.pieces)
    for i, piece in enumerate(pieces):
        choice = choices.byte()
        if piece.opcode not in (1, 2) or piece.reserved or choice & 3 == 3:
            continue
        # A fragmented message is gathered into its first fragment; the others stay, empty.
        payload = piece.payload
        if not piece.final:
            for j in range(i + 1, len(pieces)):
                if pieces[j].opcode == 0:
                    payload += pieces[j].payload
                    pieces[j] = replace(pieces[j], payload=b"")
                if pieces[j].opcode in (1, 2) or (pieces[j].opcode == 0 and pieces[j].final):
                    break
        if choice & 12 == 12:
            # It ends its stream; the next message of this peer begins another.
            data = encoder.compress(payload) + encoder.flush(zlib.Z_FINISH)
            encoder = zlib.compressobj(wbits=-BITS)
        else:
            data = (encoder.compress(payload) + encoder.flush(zlib.Z_SYNC_FLUSH))[:-4]
        if choice & 16:
            encoder = zlib.compressobj(wbits=-BITS)
        if choice & 224 == 224 and data:
            at = choices.byte() % len(data)
            data = data[:at] + bytes([choices.byte()]) + data[at + 1 :]
        pieces[i] = replace(piece, payload=data, reserved=4, length_bytes=0)
    return replace(stream, pieces=pieces, lost=0)


@roles
@pytest.mark.parametrize("takeover", [True, False], ids=["takeover", "no takeover"])
@examples(100)
@given(program=programs, how=programs)
def test_compressed_messages(role: Role, takeover: bool, program: bytes, how: bytes) -> None:
    stream = deflated(read_stream(Program(program)), how)
    pieces: list[Piece] = [with_one_fault(piece) for piece in stream.pieces]
    expected = theirs(role, replace(stream, pieces=pieces).to(role), stream.limit, takeover)
    assert ours(role, stream.reads(stream.to(role)), stream.limit, takeover) == expected
