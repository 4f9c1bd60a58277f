"""Servers and clients of little room in the system's buffers, so that a few KiB block a line."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import sockrpc
from tests.kit.support import RawClient, Serving, opening
from tests.kit.tls import client_context

# What the system is asked for; Linux doubles it. All that a line holds between two ends of it,
# the one read that asyncio or uvloop may have under way included, is far below LINE_BYTES.
BUFFER_BYTES = 8 * 1024
LINE_BYTES = 1024 * 1024


def narrow_socket() -> socket.socket:
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    return narrow


@contextlib.asynccontextmanager
async def serving_narrowly(app: Any, **options: Any) -> AsyncIterator[NarrowServing]:
    """As `serving`; the sockets that it accepts inherit the buffers of the one that listens."""
    options = {"stop_grace": 2.0, "abort_grace": 1.0, "close_timeout": 2.0} | options
    with narrow_socket() as listening:
        listening.bind(("127.0.0.1", 0))
        async with sockrpc.serve(app, sock=listening, **options) as server:
            yield NarrowServing(server, tls=options.get("ssl") is not None)


class NarrowServing(Serving):
    """A running server."""

    def __init__(self, server: sockrpc.Server, *, tls: bool) -> None:
        super().__init__(server)
        self.tls: dict[str, Any] = {"ssl": client_context(), "server_hostname": "127.0.0.1"} if tls else {}

    async def narrow_raw(self) -> RawClient:
        """A raw client that holds next to nothing of what it was not asked to receive."""
        line = narrow_socket()
        line.setblocking(False)
        await asyncio.get_running_loop().sock_connect(line, ("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=line, limit=4096, **self.tls)
        if not self.tls:
            writer.transport.set_write_buffer_limits(0)
        raw = RawClient(reader, writer)
        await raw.send(opening())
        await raw.wait(reader.readuntil(b"\r\n\r\n"))
        return raw
