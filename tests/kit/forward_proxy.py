"""A proxy as companies have them: HTTP CONNECT, SOCKS 4, 4a and 5, written down from their specifications."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Self

# How a name that only the proxy knows is spelled; it leads to 127.0.0.1.
INSIDE = "inside.corp.invalid"


class ForwardProxy:
    """Forwards what it is asked for.

    Args:
        kind: "http", "socks4" or "socks5".
        tls: What the line to it speaks; None: plain.
        answer: Said instead of forwarding, then the connection is closed.
        credentials: Username and password that SOCKS 5 demands.

    Attributes:
        asked: What it was asked to connect to, with what was said beside that.
    """

    def __init__(
        self,
        kind: str = "http",
        *,
        tls: ssl.SSLContext | None = None,
        answer: bytes | None = None,
        credentials: tuple[str, str] | None = None,
    ) -> None:
        self.kind = kind
        self.tls = tls
        self.answer = answer
        self.credentials = credentials
        self.asked: list[tuple[str, int]] = []
        self.heads: list[str] = []
        self.port = 0
        self.tasks: set[asyncio.Task[None]] = set()

    def url(self, scheme: str | None = None, user: str = "") -> str:
        return f"{scheme or self.kind}://{user}127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self.connected, "127.0.0.1", 0, ssl=self.tls)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self.serve(reader, writer))
        self.tasks.add(task)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            host, port, success = await getattr(self, self.kind)(reader, writer)
            self.asked.append((host, port))
            if self.answer is not None:
                writer.write(self.answer)
                await writer.drain()
                return
            there, away = await asyncio.open_connection("127.0.0.1" if host == INSIDE else host, port)
            writer.write(success)
            with contextlib.closing(away):
                await asyncio.gather(pump(reader, away), pump(there, writer))

    async def http(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[str, int, bytes]:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        method, where, version = head.splitlines()[0].split(" ")
        assert (method, version) == ("CONNECT", "HTTP/1.1")
        host, _, port = where.rpartition(":")
        return host.strip("[]"), int(port), b"HTTP/1.0 200 Connection established\r\nVia: proxy\r\n\r\n"

    async def socks5(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[str, int, bytes]:
        # RFC 1928, RFC 1929
        version, count = await reader.readexactly(2)
        methods = await reader.readexactly(count)
        method = 0 if self.credentials is None else 2
        assert version == 5
        if method not in methods:
            writer.write(b"\x05\xff")
            raise asyncio.IncompleteReadError(b"", None)
        writer.write(bytes([5, method]))
        if self.credentials is not None:
            assert await reader.readexactly(1) == b"\x01"
            said = [(await reader.readexactly((await reader.readexactly(1))[0])).decode() for _ in range(2)]
            is_right = tuple(said) == self.credentials
            writer.write(b"\x01\x00" if is_right else b"\x01\x01")
            if not is_right:
                raise asyncio.IncompleteReadError(b"", None)
        assert await reader.readexactly(3) == b"\x05\x01\x00"
        kind = (await reader.readexactly(1))[0]
        if kind == 3:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        else:
            family, size = {1: (socket.AF_INET, 4), 4: (socket.AF_INET6, 16)}[kind]
            host = socket.inet_ntop(family, await reader.readexactly(size))
        port = int.from_bytes(await reader.readexactly(2), "big")
        return host, port, b"\x05\x00\x00\x01" + bytes(6)

    async def socks4(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[str, int, bytes]:
        assert await reader.readexactly(2) == b"\x04\x01"
        port = int.from_bytes(await reader.readexactly(2), "big")
        address = await reader.readexactly(4)
        await reader.readuntil(b"\0")
        # 4a: an address of this kind says that a name follows.
        if address[:3] == bytes(3):
            host = (await reader.readuntil(b"\0"))[:-1].decode()
        else:
            host = socket.inet_ntoa(address)
        return host, port, b"\x00\x5a" + bytes(6)


async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()
    sink.close()
