"""A raw peer of `sockrpc.v1`: its frames, written down anew from PROTOCOL.md as an oracle for ours."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from typing import Any, Self

import sockrpc
from tests.kit.raw_server import Peer, RawServer, open_client
from tests.kit.support import BINARY, CLOSE, RawClient, frame

V1 = "sockrpc.v1"
TOP = 0x80000000
TIMEOUT, METADATA, SENDS, TAKES, TRACKED, NESTED = 1, 2, 4, 8, 16, 32


def hello(*, calls: int = 64, window: int = 65_536, size: int = 1 << 20, metadata: bytes = b"") -> bytes:
    return struct.pack("!BBIII", 10, 0, calls, window, size) + metadata


def request(id: int, name: str, payload: bytes = b"") -> bytes:
    return struct.pack("!BIB", 2, id, len(name)) + name.encode() + payload


def opened(
    id: int,
    name: str,
    payload: bytes = b"",
    *,
    flags: int = 0,
    timeout: int | None = None,
    metadata: bytes | None = None,
) -> bytes:
    options = b""
    if timeout is not None:
        flags |= TIMEOUT
        options += struct.pack("!I", timeout)
    if metadata is not None:
        flags |= METADATA
        options += struct.pack("!H", len(metadata)) + metadata
    return struct.pack("!BIB", 5, id, flags) + options + bytes([len(name)]) + name.encode() + payload


def reset(id: int) -> bytes:
    return struct.pack("!BI", 3, id)


def response(id: int, payload: bytes = b"") -> bytes:
    return struct.pack("!BI", 4, id) + payload


def item(id: int, payload: bytes = b"") -> bytes:
    return struct.pack("!BI", 6, id) + payload


def end(id: int) -> bytes:
    return struct.pack("!BI", 7, id)


def credit(id: int, size: int) -> bytes:
    return struct.pack("!BII", 8, id, size)


def error(id: int, code: int, outcome: int = 0, text: bytes = b"", details: bytes = b"") -> bytes:
    return struct.pack("!BIBBH", 9, id, code, outcome, len(text)) + text + details


def goaway(code: int = 14, grace: int = 0, text: bytes = b"") -> bytes:
    return struct.pack("!BBI", 11, code, grace) + text


def ping(payload: bytes = b"") -> bytes:
    return b"\x0c" + payload


def pong(payload: bytes = b"") -> bytes:
    return b"\x0d" + payload


def entry(key: bytes, value: bytes = b"") -> bytes:
    """An entry of metadata."""
    return bytes([len(key)]) + key + struct.pack("!H", len(value)) + value


def understood(message: bytes) -> tuple[Any, ...]:
    """The opcode of a message, and its fields."""
    kind = message[0]
    if kind == 9:
        id, code, outcome, size = struct.unpack("!IBBH", message[1:9])
        return kind, id, code, outcome, message[9 : 9 + size].decode(), message[9 + size :]
    if kind in (2, 3, 4, 5, 6, 7):
        return kind, struct.unpack("!I", message[1:5])[0], message[5:]
    if kind == 8:
        return kind, *struct.unpack("!II", message[1:])
    if kind == 11:
        return kind, message[1], struct.unpack("!I", message[2:6])[0], message[6:].decode()
    return kind, message[1:]


class V1Peer(RawClient):
    """A raw client that has said Hello, and has heard the server's."""

    @classmethod
    async def meet(cls, port: int, greeting: bytes | None = None) -> Self:
        first = frame(BINARY, hello() if greeting is None else greeting)
        peer = await cls.connect(port, then=first, Sec_WebSocket_Protocol=V1)
        assert (await peer.hear())[0] == 10
        return peer

    async def say(self, *messages: bytes) -> None:
        """Send messages in one write."""
        await self.send(*[frame(BINARY, message) for message in messages])

    async def hear(self) -> tuple[Any, ...]:
        """The next message, as `understood` shows it, or "close", its code and its reason."""
        opcode, payload = await self.receive()
        if opcode == CLOSE:
            return "close", struct.unpack("!H", payload[:2])[0], payload[2:].decode()
        assert opcode == BINARY, (opcode, payload)
        return understood(payload)

    async def message(self) -> bytes:
        """The next message as it came."""
        opcode, payload = await self.receive()
        assert opcode == BINARY, (opcode, payload)
        return payload

    async def error(self) -> tuple[int, int, int]:
        """The id, code and outcome of the next message, which must be an Error."""
        heard = await self.hear()
        assert heard[0] == 9, heard
        return heard[1], heard[2], heard[3]

    async def hear_end(self) -> tuple[Any, ...]:
        """The next message that is neither an item nor credit."""
        while (heard := await self.hear())[0] in (6, 8):
            pass
        return heard


async def say(peer: Peer, *messages: bytes) -> None:
    """Let a raw server send messages in one write."""
    await peer.send(*[frame(BINARY, message, masked=False) for message in messages])


async def hear(peer: Peer) -> tuple[Any, ...]:
    """The next message that a client sends to a raw server."""
    opcode, payload = await peer.receive()
    if opcode == CLOSE:
        return "close", struct.unpack("!H", payload[:2])[0], payload[2:].decode()
    assert opcode == BINARY, (opcode, payload)
    return understood(payload)


@contextlib.asynccontextmanager
async def client_of(
    greeting: bytes | None = None, **options: Any
) -> AsyncIterator[tuple[sockrpc.Client, Peer]]:
    """A client of ours that speaks v1, and the raw end of its connection; both have said Hello."""
    async with RawServer() as server:
        connecting = asyncio.ensure_future(open_client(server.uri, {"protocols": V1, **options}))
        peer = await server.accept(headers={"Sec-WebSocket-Protocol": V1})
        await say(peer, hello() if greeting is None else greeting)
        assert [(await hear(peer))[0] for _ in range(2)] == [10, 12]
        await say(peer, pong())
        client = await connecting
        try:
            yield client, peer
        finally:
            await peer.finish()
            await client.close()
