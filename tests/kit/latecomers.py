"""Connections that come at the very end: queued, half open, or before their handshake."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import sockrpc
import sockrpc.listen.server_sockets
from tests.kit.inside import attached
from tests.kit.support import CLOSE, RawClient, frame, until

# More than any test may take: what ends earlier has not ended by this.
NEVER = 60.0

STOPPING = (1001, "server stopping")


async def line_to(port: int) -> RawClient:
    """A TCP connection over which nothing was sent."""
    return RawClient(*await asyncio.open_connection("127.0.0.1", port))


async def accepted(server: sockrpc.Server, count: int) -> None:
    """Wait until so many connections are in their opening handshake, or open."""
    await until(lambda: attached(server) == count)


async def is_let_in_and_told(raw: RawClient) -> None:
    head = await raw.wait(raw.reader.readuntil(b"\r\n\r\n"))
    assert head.startswith(b"HTTP/1.1 101 "), head
    assert await raw.closing() == STOPPING
    await raw.send(frame(CLOSE))
    assert await raw.nothing_more()


def queue_up(port: int, count: int, data: bytes) -> list[socket.socket]:
    """Connections that the system holds for a listener, as the loop does not turn meanwhile."""
    lines = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    for each in lines:
        each.sendall(data)
        each.setblocking(False)
    return lines


async def raw_over(line: socket.socket, **options: Any) -> RawClient:
    return RawClient(*await asyncio.open_connection(sock=line, **options))
