"""Streams of WebSocket frames, right and wrong, written by a program: a string of bytes.

Any bytes are a program and any program is a stream. So Hypothesis draws a whole stream in one go and shrinks
it like any other bytes, and a coverage-guided fuzzer gets from one stream to the next by changing a byte.
Where a program ends too early the rest of it reads as zeros.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, TypeVar

from hypothesis import strategies as st

Role = Literal["server", "client"]
T = TypeVar("T")

SMALL_LIMIT, LARGE_LIMIT = 300, 66_000
# Around everything that a length decides: words of the mask, forms of the length, limits.
SIZES = (
    *(0, 1, 2, 3, 4, 5, 7, 8, 9, 13, 15, 16, 17, 31, 63, 64, 65),
    *(124, 125, 126, 127, 128, 254, 255, 256, 257, 298, 299, 300, 301, 400, 511, 513),
    *(65_534, 65_535, 65_536, 65_537, 65_999, 66_000, 66_001),
)
SMALL_SIZES = SIZES[:-11]
# Joined at random; some are UTF-8 only together with their neighbour, some never.
SNIPPETS = (
    *(b"a", b"hello ", b"\x00", "é".encode(), "€".encode(), "👀".encode(), "\ud7ff\ue000".encode()),
    *(b"\xc3", b"\xa9", b"\xe2\x82", b"\xac", b"\xf0\x9f", b"\x91\x80", b"\xf4\x8f\xbf\xbf"),
    *(b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe0\x80\x80", b"\xf8\x88\x80\x80\x80"),
)
GOOD_SNIPPETS = 7
KEYS = (b"\x01\x02\x03\x04", b"\x00\x00\x00\x00", b"\xff\xfe\x80\x7f")
CODES = (
    *(1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999),
    *(0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535),
)
GOOD_CODES = 16
NAMES = (b"echo", b"note", b"nobody", b"", b"a" * 255, "é👀".encode(), b"\xff", b"echo\xc3")
IDS = (1, 2, 0, 0xFFFFFFFF, 0x01020304)


class Program:
    """A string of bytes as it is read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def __bool__(self) -> bool:
        return self.at < len(self.data)

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1] if self.at <= len(self.data) else 0

    def word(self) -> int:
        return self.byte() << 8 | self.byte()

    def take(self, size: int) -> bytes:
        self.at += size
        return self.data[self.at - size : self.at].ljust(size, b"\x00")

    def pick(self, choices: Sequence[T]) -> T:
        return choices[self.byte() % len(choices)]


@dataclass(frozen=True)
class Piece:
    """One frame, as right or wrong as its fields say."""

    opcode: int
    payload: bytes = b""
    final: bool = True
    reserved: int = 0
    wrong_mask: bool = False
    # 0: the shortest encoding of the length; 2 or 8: this many bytes.
    length_bytes: int = 0
    key: bytes = KEYS[0]

    def to(self, role: Role) -> bytes:
        """The bytes as they are received by this role."""
        masked = (role == "server") != self.wrong_mask
        size = len(self.payload)
        width = max(self.length_bytes, 0 if size < 126 else 2 if size < 65536 else 8)
        short = {0: size, 2: 126, 8: 127}[width]
        head = bytes([self.final << 7 | self.reserved << 4 | self.opcode, masked << 7 | short])
        if width:
            head += size.to_bytes(width, "big")
        if not masked:
            return head + self.payload
        key = int.from_bytes((self.key * (size // 4 + 1))[:size], "big")
        return head + self.key + (int.from_bytes(self.payload, "big") ^ key).to_bytes(size, "big")


@dataclass(frozen=True)
class Stream:
    """Frames, the reads in which they arrive, and the limit of who receives them."""

    pieces: list[Piece]
    cuts: list[int]
    limit: int = SMALL_LIMIT
    # The rest of the stream never arrives.
    lost: int = 0

    def to(self, role: Role) -> bytes:
        data = b"".join(piece.to(role) for piece in self.pieces)
        return data[: len(data) - self.lost % (len(data) + 1)]

    def reads(self, data: bytes) -> list[bytes]:
        """The stream, in the reads in which it arrives."""
        edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in self.cuts)})
        return [data[start:end] for start, end in pairwise(edges)]


def read_stream(program: Program) -> Stream:
    """The stream that a program writes."""
    mode = program.byte()
    # 64 and more: rules are broken.
    is_wild = mode >= 64
    cuts = [program.word() for _ in range(mode & 7)]
    if mode & 7 == 7:
        # Byte by byte; what is left is in one read.
        cuts = list(range(500))
    limit = LARGE_LIMIT if mode & 8 else SMALL_LIMIT
    lost = program.word() if mode & 48 == 48 else 0
    pieces: list[Piece] = []
    while program and len(pieces) < 100:
        read_instruction(program, pieces, is_wild)
    if is_wild:
        return Stream(pieces, cuts, limit, lost)
    # Nothing is done after a close: at most one in most streams, more in a few.
    closes = [i for i, piece in enumerate(pieces) if piece.opcode == 8]
    return Stream(pieces[: closes[0] + 2] if closes else pieces, cuts, limit, lost)


def read_instruction(program: Program, pieces: list[Piece], is_wild: bool) -> None:
    op = program.byte()
    key = program.take(4) if op >= 192 else KEYS[op >> 6]
    match op & 15:
        case 0 | 1 | 2 | 3 | 4:
            pieces.append(Piece(2 if op & 7 else 1, read_payload(program, op & 7 == 0), key=key))
        case 5 | 6 | 7 | 8:
            read_fragments(program, pieces, key)
        case 9 | 10:
            pieces.append(read_control(program, key))
        case 13 if op & 48 == 48:
            pieces.append(read_close(program, key))
        case 14 | 15 if is_wild:
            read_fault(program, pieces, key)
        case _:
            pieces.append(Piece(2, read_rpc(program), key=key, length_bytes=(0, 0, 2, 8)[op >> 4 & 3]))


def read_payload(program: Program, is_text: bool) -> bytes:
    how = program.byte()
    if is_text:
        snippets = SNIPPETS if how & 224 == 224 else SNIPPETS[:GOOD_SNIPPETS]
        return b"".join(program.pick(snippets) for _ in range(how & 15))
    match how >> 6:
        case 0:
            return program.take(how & 31)
        case 1:
            return read_rpc(program)
        case wide:
            size = program.pick(SIZES if wide == 3 else SMALL_SIZES)
            return bytes(i * how & 0xFF for i in range(256)) * (size // 256) + bytes(
                i * how & 0xFF for i in range(size % 256)
            )


def read_fragments(program: Program, pieces: list[Piece], key: bytes) -> None:
    """One message in up to five fragments, with control frames between some of them."""
    how = program.byte()
    payload = read_payload(program, bool(how & 4))
    cuts = sorted(program.word() % (len(payload) + 1) for _ in range(1 + (how & 3)))
    for i, (start, end) in enumerate(pairwise([0, *cuts, len(payload)])):
        if i and how & 8 << i:
            pieces.append(read_control(program, key))
        opcode = 0 if i else 1 if how & 4 else 2
        pieces.append(Piece(opcode, payload[start:end], i == len(cuts), key=key))


def read_control(program: Program, key: bytes) -> Piece:
    how = program.byte()
    size = program.pick(SIZES) % 126
    return Piece(9 if how & 3 else 10, bytes([how]) * size, key=key)


def read_close(program: Program, key: bytes) -> Piece:
    how = program.byte()
    if how & 7 == 0:
        return Piece(8, program.take(how >> 3 & 3), key=key)
    code = program.pick(CODES if how & 8 else CODES[:GOOD_CODES])
    reason = read_payload(program, is_text=True) if how & 16 else b""
    return Piece(8, (struct.pack("!H", code) + reason)[:125], key=key)


def read_rpc(program: Program) -> bytes:
    """A message of the RPC level, or what is left of one."""
    how = program.byte()
    opcode = (1, 2, 2, 3, 4, 4, 1, program.byte() if how & 7 == 7 else 0)[how & 7]
    message = bytes([opcode])
    if opcode in (2, 3, 4):
        message += struct.pack("!I", program.pick(IDS))
    if opcode in (1, 2):
        name = program.pick(NAMES[:3] if how & 8 else NAMES)
        message += bytes([len(name)]) + name
    if opcode != 3 or how & 192 == 192:
        message += program.take(how >> 4 & 3)
    if how & 192 == 128:
        message = message[: program.byte() % (len(message) + 1)]
    return message


def read_fault(program: Program, pieces: list[Piece], key: bytes) -> None:
    """A frame with any header, or a change of the frame before."""
    how = program.byte()
    if how & 7 == 0 or not pieces:
        first = program.byte()
        payload = read_payload(program, is_text=False)
        wide = (0, 0, 2, 8)[how >> 4 & 3] if first & 8 == 0 else 0
        pieces.append(Piece(first & 15, payload, first >= 128, first >> 4 & 7, how & 8 == 8, wide, key))
        return
    last = pieces[-1]
    match how & 7:
        case 1:
            pieces.append(last)
        case 2:
            pieces[-1] = replace(last, opcode=how >> 4, length_bytes=0)
        case 3:
            pieces[-1] = replace(last, final=not last.final)
        case 4:
            pieces[-1] = replace(last, reserved=1 + how % 7)
        case 5:
            pieces[-1] = replace(last, wrong_mask=not last.wrong_mask)
        case 6:
            pieces[-1] = replace(last, payload=bytes(program.pick(SIZES)))
        case _:
            pieces.pop()


# Of every length, as bytes of no stated length are mostly short.
programs = st.integers(0, 120).flatmap(lambda size: st.binary(min_size=size, max_size=size))
streams = programs.map(lambda data: read_stream(Program(data)))
ordinary_streams = programs.map(
    lambda data: read_stream(Program(bytes([data[0] % 64 if data else 0]) + data[1:]))
)
broken_streams = programs.map(
    lambda data: read_stream(Program(bytes([data[0] % 192 + 64 if data else 64]) + data[1:]))
)
