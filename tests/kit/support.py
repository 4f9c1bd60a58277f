"""What several test files need: a server on a free port, a client of raw bytes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any, Self

import sockrpc

SUBPROTOCOL = "websocket.io-rpc-v0.1"
# To offer, where a test is about what only one of them does.
V0 = (SUBPROTOCOL,)
V1 = ("sockrpc.v1",)
# Nothing here waits this long unless it is broken; a test that hangs fails with a traceback. Where each step
# of the compiled code is followed or checked, scripts/shares.py allows more.
PATIENCE = float(os.environ.get("SOCKRPC_PATIENCE", "10"))

# So many turns of a loop take some milliseconds.
AT_ONCE = 300

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


# What clients of these helpers offer where a test is marked `both_protocols`, which runs once with each.
# Otherwise ours offer both, and raw ones v0.1.
chosen: list[str] = []


@contextlib.asynccontextmanager
async def serving(app: Any, **options: Any) -> AsyncIterator[Serving]:
    """Serve an app on a free port; limits and the like are keywords."""
    options.setdefault("stop_grace", 2.0)
    options.setdefault("abort_grace", 1.0)
    options.setdefault("close_timeout", 2.0)
    async with sockrpc.serve(app, "127.0.0.1", 0, **options) as server:
        yield Serving(server)


class Serving:
    """A running server and where it is."""

    def __init__(self, server: sockrpc.Server) -> None:
        self.server = server
        self.port: int = server.sockets[0].getsockname()[1]
        self.uri = f"ws://127.0.0.1:{self.port}/socket"

    def connect(self, **options: Any) -> sockrpc.connect:
        if chosen:
            options.setdefault("protocols", tuple(chosen))
        return sockrpc.connect(self.uri, **options)

    async def raw(self, **options: Any) -> RawClient:
        return await RawClient.connect(self.port, **options)

    def only_socket(self) -> sockrpc.Socket:
        (socket,) = self.server.connections
        return socket


async def until(condition: Any, patience: float = PATIENCE) -> None:
    """Turn the loop until `condition()` holds; it fails after `patience`."""
    turns = 0
    async with asyncio.timeout(patience):
        while not condition():
            # What takes so many turns waits for a clock, and would take a core for all that time.
            await asyncio.sleep(0 if turns < AT_ONCE else 0.001)
            turns += 1


# How bytes may reach the other side: `deliver` takes one of them.
DELIVERIES = ["whole", "byte by byte", "split in the middle"]


async def deliver(peer: Any, data: bytes, how: str) -> None:
    """Send bytes so that the other side, which is in this very loop, reads them whole or in pieces."""
    step = {"whole": len(data), "byte by byte": 1, "split in the middle": (len(data) + 1) // 2}[how] or 1
    for start in range(0, len(data), step):
        await peer.send(data[start : start + step])
        # One turn writes it, one reads it; where the system is slower the pieces are just larger.
        for _ in range(3):
            await asyncio.sleep(0)


async def started(coroutine: Any) -> asyncio.Task[Any]:
    """A task whose first step has run: a call that is in it has been made."""
    task = asyncio.ensure_future(coroutine)
    await asyncio.sleep(0)
    return task


def frame(
    opcode: int, payload: bytes = b"", *, final: bool = True, masked: bool = True, reserved: int = 0
) -> bytes:
    """One WebSocket frame, written down anew from RFC 6455 5.2 as an oracle for ours."""
    size = len(payload)
    if size < 126:
        length = bytes([(0x80 if masked else 0) | size])
    elif size < 65536:
        length = bytes([(0x80 if masked else 0) | 126]) + struct.pack("!H", size)
    else:
        length = bytes([(0x80 if masked else 0) | 127]) + struct.pack("!Q", size)
    head = bytes([(0x80 if final else 0) | reserved << 4 | opcode]) + length
    if not masked:
        return head + payload
    key = os.urandom(4)
    return head + key + exclusive_or(payload, key)


def exclusive_or(payload: bytes, key: bytes) -> bytes:
    """The payload masked, or unmasked, by a key of four bytes."""
    size = len(payload)
    repeated = (key * (size // 4 + 1))[:size]
    # As one number: done byte by byte, it took a third of the time of the tests that use it.
    return (int.from_bytes(payload) ^ int.from_bytes(repeated)).to_bytes(size)


def request(id: int, name: str, payload: bytes = b"") -> bytes:
    """A masked WebSocket message that holds a Request."""
    encoded = name.encode()
    return frame(BINARY, b"\x02" + struct.pack("!I", id) + bytes([len(encoded)]) + encoded + payload)


def reset(id: int) -> bytes:
    """A masked WebSocket message that holds a Reset."""
    return frame(BINARY, b"\x03" + struct.pack("!I", id))


def notify(name: str, payload: bytes = b"") -> bytes:
    """A masked WebSocket message that holds a Notify."""
    encoded = name.encode()
    return frame(BINARY, b"\x01" + bytes([len(encoded)]) + encoded + payload)


def opening(path: str = "/socket", *, host: str = "127.0.0.1", **headers: str) -> bytes:
    """An opening request; keywords replace headers ("_" for "-"), an empty value leaves one out."""
    fields = {
        "Host": host,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": chosen[0] if chosen else SUBPROTOCOL,
    }
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items() if value)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def cut(writer: asyncio.StreamWriter) -> None:
    """Abort a connection with a TCP reset: that is what closing does when it may not linger."""
    with writer.get_extra_info("socket").dup() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def hello() -> bytes:
    """A masked WebSocket message that holds a Hello with the numbers that hold without one."""
    return frame(BINARY, b"\x0a\0" + struct.pack("!III", 64, 65_536, 1 << 20))


class RawClient:
    """A client that sends exactly the bytes it is told to, in exactly the writes it is told to.

    Where a test chooses `sockrpc.v1` it says Hello at once, and keeps apart what v0.1 does not have.

    Attributes:
        ends: The ends of calls that were not answered: id, code and outcome.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.head = b""
        self.ends: list[tuple[int, int, int]] = []
        self.is_v1 = False

    @classmethod
    async def connect(cls, port: int, *, then: bytes = b"", **headers: str) -> Self:
        """Connect and complete the opening handshake; `then` goes in the same segment as the request."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        client = cls(reader, writer)
        client.is_v1 = chosen == [*V1] and not headers.get("Sec_WebSocket_Protocol")
        await client.send(opening(**headers) + (hello() if client.is_v1 else b"") + then)
        head = await client.wait(reader.readuntil(b"\r\n\r\n"))
        assert head.startswith(b"HTTP/1.1 101 "), head
        client.head = head
        return client

    async def wait(self, awaitable: Any) -> Any:
        async with asyncio.timeout(PATIENCE):
            return await awaitable

    async def send(self, *data: bytes) -> None:
        """Write everything in one go."""
        self.writer.write(b"".join(data))
        await self.wait(self.writer.drain())

    async def receive(self) -> tuple[int, bytes]:
        """The opcode and payload of the next frame, which must be final and not masked."""
        while True:
            opcode, payload = await self.receive_any()
            if opcode != BINARY or not self.is_v1 or payload[0] not in (9, 10, 11):
                return opcode, payload
            if payload[0] == 9:
                self.ends.append((int.from_bytes(payload[1:5]), payload[5], payload[6]))

    async def receive_any(self) -> tuple[int, bytes]:
        """The same, whatever it is."""
        head = await self.wait(self.reader.readexactly(2))
        assert head[0] & 0x80, "the server sent a fragment"
        assert not head[1] & 0x80, "the server masked a frame"
        size = head[1]
        if size == 126:
            (size,) = struct.unpack("!H", await self.wait(self.reader.readexactly(2)))
        elif size == 127:
            (size,) = struct.unpack("!Q", await self.wait(self.reader.readexactly(8)))
        return head[0] & 0x0F, await self.wait(self.reader.readexactly(size))

    async def answer(self) -> tuple[int, bytes]:
        """The id and payload of the next message, which must be a Response."""
        opcode, message = await self.receive()
        assert opcode == BINARY, (opcode, message)
        assert message[0] == 4, message
        return struct.unpack("!I", message[1:5])[0], message[5:]

    async def closing(self) -> tuple[int, str]:
        """The code and reason of the close frame, which must be the next frame."""
        opcode, payload = await self.receive()
        assert opcode == CLOSE, (opcode, payload)
        return (struct.unpack("!H", payload[:2])[0] if payload else 1005), payload[2:].decode()

    async def nothing_more(self) -> bool:
        """True if the server sends nothing but end of file."""
        return await self.wait(self.reader.read()) == b""

    async def synchronize(self) -> None:
        """Wait until the server has worked through everything that was sent before."""
        mark = os.urandom(8)
        await self.send(frame(PING, mark))
        opcode, payload = await self.receive()
        assert (opcode, payload) == (PONG, mark), (opcode, payload)

    async def close(self) -> None:
        """Close TCP without a close frame."""
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.wait(self.writer.wait_closed())

    def reset_line(self) -> None:
        """Cut the line with a TCP reset."""
        cut(self.writer)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()
