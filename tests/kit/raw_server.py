"""A server of raw bytes, for tests of the Python client; the counterpart of `support.RawClient`."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any, Self

import sockrpc
from tests.kit.support import BINARY, CLOSE, PATIENCE, PING, PONG, SUBPROTOCOL, cut, frame

# RFC 6455 4.2.2
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Peer:
    """The server's end of one connection: sends exactly what it is told to, reads only what it is asked."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.request_line = ""
        self.fields: dict[str, str] = {}
        self.names: list[str] = []

    async def wait(self, awaitable: Any) -> Any:
        async with asyncio.timeout(PATIENCE):
            return await awaitable

    async def shake_hands(self, then: bytes = b"", headers: dict[str, str] | None = None) -> None:
        """Answer the opening request; `then` goes in the same segment, an empty header is left out."""
        await self.read_head()
        digest = hashlib.sha1(self.fields["sec-websocket-key"].encode() + GUID).digest()
        answer = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Accept": base64.b64encode(digest).decode(),
            "Sec-WebSocket-Protocol": SUBPROTOCOL,
        } | (headers or {})
        lines = [f"{name}: {value}\r\n" for name, value in answer.items() if value]
        await self.send("HTTP/1.1 101 Switching Protocols\r\n{}\r\n".format("".join(lines)).encode(), then)

    async def read_head(self) -> None:
        """Read the opening request: its first line and its fields, with names in lower case."""
        head = (await self.wait(self.reader.readuntil(b"\r\n\r\n"))).decode(errors="replace")
        self.request_line, *lines = head.rstrip().split("\r\n")
        self.names = [line.partition(":")[0] for line in lines]
        self.fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}

    async def send(self, *data: bytes) -> None:
        """Write everything in one go."""
        self.writer.write(b"".join(data))
        await self.wait(self.writer.drain())

    async def receive(self) -> tuple[int, bytes]:
        """The opcode and the unmasked payload of the next frame, which must be final and masked."""
        head = await self.wait(self.reader.readexactly(2))
        assert head[0] & 0x80, "the client sent a fragment"
        assert head[1] & 0x80, "the client sent a frame without a mask"
        size = head[1] & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", await self.wait(self.reader.readexactly(2)))
        elif size == 127:
            (size,) = struct.unpack("!Q", await self.wait(self.reader.readexactly(8)))
        key = await self.wait(self.reader.readexactly(4))
        masked = await self.wait(self.reader.readexactly(size))
        mask = int.from_bytes((key * (size // 4 + 1))[:size], "big")
        return head[0] & 0x0F, (int.from_bytes(masked, "big") ^ mask).to_bytes(size, "big")

    async def message(self) -> tuple[str, int, bytes]:
        """The next message: its kind, its id and what follows the id."""
        opcode, message = await self.receive()
        assert opcode == BINARY, (opcode, message)
        kind = {2: "request", 3: "reset"}[message[0]]
        return kind, struct.unpack("!I", message[1:5])[0], message[5:]

    async def request(self) -> int:
        """The id of the next message, which must be a Request."""
        kind, id, _ = await self.message()
        assert kind == "request", (kind, id)
        return id

    async def reset(self) -> int:
        """The id of the next message, which must be a Reset."""
        kind, id, rest = await self.message()
        assert (kind, rest) == ("reset", b""), (kind, id, rest)
        return id

    async def answer(self, id: int, payload: bytes = b"answer") -> None:
        """Answer a call."""
        await self.send(response(id, payload))

    async def closing(self) -> tuple[int, str]:
        """The code and reason of the close frame, which must be the next frame."""
        opcode, payload = await self.receive()
        assert opcode == CLOSE, (opcode, payload)
        return (struct.unpack("!H", payload[:2])[0] if payload else 1005), payload[2:].decode()

    async def nothing_more(self) -> bool:
        """True if the client sends nothing but end of file."""
        return bool(await self.wait(self.reader.read()) == b"")

    async def synchronize(self) -> None:
        """Fail if the client has sent anything that was not received yet."""
        mark = os.urandom(8)
        await self.send(frame(PING, mark, masked=False))
        opcode, payload = await self.receive()
        assert (opcode, payload) == (PONG, mark), (opcode, payload)

    async def close_politely(self, code: int) -> None:
        """Send a close frame."""
        await self.send(frame(CLOSE, struct.pack("!H", code), masked=False))

    async def finish(self) -> None:
        """Close TCP (FIN) without a close frame."""
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.wait(self.writer.wait_closed())

    def reset_line(self) -> None:
        """Cut the line with a TCP reset."""
        cut(self.writer)


def response(id: int, payload: bytes) -> bytes:
    """A WebSocket message that holds a Response."""
    return frame(BINARY, b"\x04" + struct.pack("!I", id) + payload, masked=False)


def notification(name: str, payload: bytes = b"") -> bytes:
    """A WebSocket message that holds a Notify."""
    encoded = name.encode()
    return frame(BINARY, b"\x01" + bytes([len(encoded)]) + encoded + payload, masked=False)


class RawServer:
    """Listens on a free port; each connection is a `Peer`."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self.accepted: asyncio.Queue[Peer] = asyncio.Queue()
        self.port = 0

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self.peers.append(peer)
        self.accepted.put_nowait(peer)

    async def peer(self) -> Peer:
        """The next connection, of which nothing was read."""
        async with asyncio.timeout(PATIENCE):
            return await self.accepted.get()

    async def accept(self, then: bytes = b"", headers: dict[str, str] | None = None) -> Peer:
        """The next connection, its opening handshake done."""
        peer = await self.peer()
        await peer.shake_hands(then, headers)
        return peer

    async def client(self, **options: Any) -> tuple[sockrpc.Client, Peer]:
        """A client of ours, connected, and the raw end of its connection."""
        connecting = asyncio.ensure_future(open_client(self.uri, options))
        peer = await self.accept()
        return await peer.wait(connecting), peer

    @property
    def uri(self) -> str:
        return f"ws://127.0.0.1:{self.port}/socket"

    async def __aenter__(self) -> Self:
        listening = socket.socket()
        # Inherited by what it accepts: a client's output is blocked early, whatever the system allows.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        listening.bind(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        self.server = await asyncio.start_server(self.connected, sock=listening)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.server.close()
        for peer in self.peers:
            await peer.finish()
        await self.server.wait_closed()


@contextlib.asynccontextmanager
async def connected(**options: Any) -> AsyncIterator[tuple[sockrpc.Client, Peer]]:
    """A client of ours and the raw end of its connection."""
    async with RawServer() as server:
        connecting = asyncio.ensure_future(open_client(server.uri, options))
        peer = await server.accept()
        client = await connecting
        try:
            yield client, peer
        finally:
            await peer.finish()
            await client.close()


async def open_client(uri: str, options: dict[str, Any]) -> sockrpc.Client:
    return await sockrpc.connect(uri, **options)
