"""Peers that torture a server: raw ones, conforming or not, each with an oracle at its ear."""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
import zlib
from typing import Any

from tests.kit.support import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    cut,
    frame,
    notify,
    opening,
    request,
    reset,
)
from tests.torture.acts import KEY, World, chance_program
from tests.torture.apps import METHODS, PLAIN, TIMED

PATIENCE = 15.0
# An end of file is noticed by then, whatever is not read before it.
NOTICED = 3.0
OFFER = "permessage-deflate; client_max_window_bits"
TAIL = b"\x00\x00\xff\xff"
IDS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0xFFFF_FFFF]


class Sent:
    """A call that a peer has sent."""

    def __init__(self, id: int, key: bytes, program: str, *, owed: bool) -> None:
        self.id, self.key, self.program = id, key, program
        self.owed = owed  # it has to be answered
        self.reset = False
        self.over = False  # answered, or known to be reset


class Peer:
    """One connection, and what was sent over it.

    Args:
        world: Takes the faults that it sees.
        chance: Its own.
        name: Two characters that begin its keys.
        strict: It keeps to the protocol, reads all the time, and is owed what it asks for.
    """

    def __init__(self, world: World, chance: random.Random, name: str, *, strict: bool) -> None:
        self.world, self.chance, self.name, self.strict = world, chance, name, strict
        self.count = 0
        self.calls: dict[bytes, Sent] = {}
        self.by_id: dict[int, Sent] = {}
        self.pings: dict[bytes, list[Sent]] = {}
        self.ended = asyncio.Event()
        self.close_code: int | None = None
        self.may_end = not strict
        self.stops = world.stops
        self.reading = asyncio.Event()
        self.reading.set()
        self.changed = asyncio.Event()
        self.deflate = self.half = False
        self.held: list[bytes] | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def connect(self, port: int, path: str, *, tls: Any, deflate: bool) -> bool:
        """Connect; False if the server did not let it in."""
        headers = {"Sec_WebSocket_Extensions": OFFER} if deflate else {}
        then = self.some(self.chance.randrange(4)) if self.chance.random() < 0.3 and not deflate else b""
        try:
            async with asyncio.timeout(PATIENCE):
                self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
                self.writer.write(opening(path, **headers) + then)
                head = await self.reader.readuntil(b"\r\n\r\n")
        except (OSError, asyncio.IncompleteReadError):
            return False
        except TimeoutError:
            self.world.fault("no answer to the opening request", path)
            return False
        self.deflate = b"permessage-deflate" in head
        if self.deflate:
            self.encoder = zlib.compressobj(wbits=-12)
            self.decoder = zlib.decompressobj(wbits=-12)
        return head.startswith(b"HTTP/1.1 101 ")

    # Sending

    def message(self, data: bytes) -> bytes:
        """A message that was made as one frame, perhaps compressed or in fragments instead."""
        if not self.deflate and self.chance.random() > 0.1:
            return data
        payload = unmasked(data)
        reserved = 0
        if self.deflate and self.chance.random() < 0.8:
            payload = (self.encoder.compress(payload) + self.encoder.flush(zlib.Z_SYNC_FLUSH))[:-4]
            reserved = 4
        parts = self.chance.choice((1, 1, 2, 3))
        step = max(1, -(-len(payload) // parts))
        pieces = [payload[n : n + step] for n in range(0, len(payload), step)] or [b""]
        return b"".join(
            frame(
                CONTINUATION if n else BINARY,
                piece,
                final=n == len(pieces) - 1,
                reserved=0 if n else reserved,
            )
            for n, piece in enumerate(pieces)
        )

    def some(self, count: int) -> bytes:
        """So many frames that a conforming client may send."""
        return b"".join(self.one() for _ in range(count))

    def one(self) -> bytes:
        draw = self.chance.random()
        if draw < 0.55:
            return self.call()
        if draw < 0.7:
            return self.reset()
        if draw < 0.9:
            return self.message(
                notify(self.chance.choice(("event", "waiting_event", "nobody")), self.payload("inline")[0])
            )
        if draw < 0.95:
            return self.call() + self.reset(-1)
        return frame(PING, self.chance.randbytes(4) + b"p")

    def payload(self, kind: str) -> tuple[bytes, str]:
        self.count += 1
        key = f"{self.name}{self.count:06d}".encode()
        benign = self.strict or self.chance.random() < 0.4
        program = chance_program(self.chance, benign=benign, kind=kind)
        if "j" in program.split(","):
            # Others of its room may be why it ends.
            self.may_end = True
        size = self.chance.choice((0, 0, 0, 10, 1000, 30000))
        return key + b" " + program.encode() + b" " + bytes(size), program

    def call(self) -> bytes:
        free = [each for each in IDS if each not in self.by_id]
        if not free:
            return b""
        id = self.chance.choice(free)
        method = self.chance.choice((*METHODS, "inline", "coroutine", "coroutine", "nobody"))
        kind = ("thread" if method.startswith("thread") else "inline") if method in PLAIN else "coroutine"
        payload, program = self.payload(kind)
        owed = self.strict and method != "nobody" and method not in TIMED
        sent = Sent(id, payload[:KEY], program, owed=owed)
        self.calls[sent.key] = self.by_id[id] = sent
        if self.strict and not owed:
            # Nobody may ever answer it; its reset frees the id.
            return self.message(request(id, method, payload)) + self.reset_of(sent)
        return self.message(request(id, method, payload))

    def reset(self, which: int | None = None) -> bytes:
        live = [each for each in self.by_id.values() if not each.reset]
        if not live:
            return self.message(reset(self.chance.choice(IDS))) if not self.by_id else b""
        return self.reset_of(live[which] if which is not None else self.chance.choice(live))

    def reset_of(self, sent: Sent) -> bytes:
        """A reset, and a ping whose pong says that it was heard."""
        sent.reset = True
        mark = sent.key
        self.pings.setdefault(mark, []).append(sent)
        return self.message(reset(sent.id)) + frame(PING, mark)

    def write(self, data: bytes) -> None:
        assert self.writer is not None
        if self.ended.is_set() or self.half or self.writer.transport.is_closing():
            return
        if self.held is None:
            self.writer.write(data)
        else:
            # Not amid the pieces of a frame.
            self.held.append(data)

    async def write_in_pieces(self, data: bytes, step: int) -> None:
        assert self.writer is not None
        self.held = held = []
        for start in range(0, len(data), step):
            if not self.writer.transport.is_closing():
                self.writer.write(data[start : start + step])
            await asyncio.sleep(0)
        self.held = None
        self.write(b"".join(held))

    # Hearing

    async def listen(self) -> None:
        try:
            while True:
                await self.reading.wait()
                opcode, payload = await self.receive()
                self.heard(opcode, payload)
                self.changed.set()
                if opcode == CLOSE:
                    self.close_code = struct.unpack("!H", payload[:2])[0] if payload else 1005
                    with contextlib.suppress(OSError):
                        self.write(frame(CLOSE, payload[:2]))
                    break
            await self.reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.ended.set()
            self.changed.set()

    async def receive(self) -> tuple[int, bytes]:
        head = await self.reader.readexactly(2)
        size = head[1]
        if not head[0] & 0x80 or head[1] & 0x80:
            self.world.fault("the server sent a fragment or a mask", head)
        if size == 126:
            (size,) = struct.unpack("!H", await self.reader.readexactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
        payload = await self.reader.readexactly(size)
        if head[0] & 0x40:
            payload = self.decoder.decompress(payload + TAIL)
        return head[0] & 0x0F, payload

    def heard(self, opcode: int, payload: bytes) -> None:
        if opcode == BINARY and payload[:1] == b"\4":
            self.answered(*struct.unpack("!I", payload[1:5]), payload[5:])
        elif opcode == BINARY and payload[:1] == b"\1":
            pass
        elif opcode == PING:
            self.write(frame(PONG, payload))
        elif opcode == PONG:
            # While output is blocked only the latest ping is answered; it stands for those before it.
            marks = list(self.pings)
            if payload in self.pings:
                for mark in marks[: marks.index(payload) + 1]:
                    for sent in self.pings.pop(mark):
                        self.settle(sent)
        elif opcode != CLOSE:
            self.world.fault("a frame of a kind that the server does not send", (opcode, payload[:50]))

    def answered(self, id: int, answer: bytes) -> None:
        sent = self.by_id.get(id)
        if sent is None:
            known = self.calls.get(answer[:KEY])
            if known is None:
                self.world.fault("an answer that belongs to nothing", (id, answer[:30]))
            elif known.reset:
                self.world.fault("an answer after its reset was heard", (known.program, id, answer[:30]))
            else:
                self.world.fault("an id was answered twice", (known.program, id, answer[:30]))
            return
        if answer and sent.key != answer[:KEY] and sent.program.find("v") < 0:
            self.world.fault("an answer of another call", (sent.program, id, sent.key, answer[:30]))
        if self.strict:
            size = int(sent.program.rpartition("=")[2] or 0)
            if len(answer) != KEY + size and sent.owed:
                self.world.fault("an answer of another size", (sent.program, len(answer)))
        self.settle(sent)

    def settle(self, sent: Sent) -> None:
        if not sent.over:
            sent.over = True
            if self.by_id.get(sent.id) is sent:
                del self.by_id[sent.id]

    # Waiting

    async def until_answered(self) -> None:
        """Wait for all that it is owed; that does not come is a fault, unless the connection may end."""
        try:
            async with asyncio.timeout(PATIENCE):
                while self.by_id and not self.ended.is_set():
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            self.world.fault(
                "calls were neither answered nor their resets heard",
                [(each.id, each.key, each.program, each.reset, each.owed) for each in self.by_id.values()],
            )
        if self.ended.is_set() and not self.may_end and self.world.stops == self.stops:
            self.world.fault("the connection of a conforming peer ended", self.close_code)

    async def leave(self, how: str) -> None:
        """Leave: "close" by a close frame, "eof", "half", "cut" by a TCP reset."""
        writer = self.writer
        if writer is None:
            return
        self.may_end = True
        self.reading.set()
        try:
            if how == "close":
                self.write(frame(CLOSE, b"\x03\xe8"))
                with contextlib.nullcontext() if self.strict else contextlib.suppress(TimeoutError):
                    # Nobody has to read what a full queue stands before.
                    async with asyncio.timeout(PATIENCE if self.strict else 0.5):
                        await self.ended.wait()
            elif how == "half" and writer.can_write_eof() and not self.ended.is_set():
                self.half = True
                writer.write_eof()
                async with asyncio.timeout(NOTICED):
                    await self.ended.wait()
            elif how == "cut":
                with contextlib.suppress(OSError, AttributeError):
                    cut(writer)
        except TimeoutError:
            self.world.fault(f"the server does not end a connection that its peer ended by {how!r}", "")
        except (OSError, RuntimeError):
            # uvloop: it was closed under us.
            pass
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await writer.wait_closed()


def unmasked(data: bytes) -> bytes:
    """The payload of one masked frame."""
    size = data[1] & 0x7F
    start = {126: 4, 127: 10}.get(size, 2)
    key = data[start : start + 4]
    body = data[start + 4 :]
    mask = (key * (len(body) // 4 + 1))[: len(body)]
    return (int.from_bytes(body, "big") ^ int.from_bytes(mask, "big")).to_bytes(len(body), "big")


def malformed(chance: random.Random) -> bytes:
    """Bytes that no peer may send."""
    faults = [
        frame(TEXT, b"text"),
        frame(BINARY, b""),
        frame(BINARY, b"\x09"),
        frame(BINARY, b"\x02\0"),
        frame(BINARY, b"\x02\0\0\0\1\x05ab"),
        frame(BINARY, b"\x02\0\0\0\1\x02\xff\xff"),
        frame(BINARY, b"\x03\0\0\0\1more"),
        frame(BINARY, b"\x04\0\0\0\1"),
        frame(BINARY, b"\x01\x01a", masked=False),
        frame(BINARY, b"\x01\x01a", reserved=4),
        frame(PING, bytes(126)),
        frame(3, b""),
        frame(CONTINUATION, b"x"),
        frame(CLOSE, b"\x03"),
        frame(CLOSE, b"\x03\xed"),
        b"\x82\xff" + struct.pack("!Q", 1 << 62) + bytes(4),
        b"\x82\xff" + struct.pack("!Q", 300_000) + bytes(4) + bytes(100_000),
        request(5, "coroutine", b"-twice-- s20") * 2,
        chance.randbytes(50),
    ]
    return chance.choice(faults)
