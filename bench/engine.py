"""A server's connection without a socket: from bytes received to bytes written."""

from __future__ import annotations

import asyncio

import sockrpc
from bench.peer import NullTransport
from sockrpc.peer.peer import Peer
from tests.kit.pair import MemoryServer


class Engine:
    """A server's connection on a transport that discards everything."""

    def __init__(self, app: sockrpc.App, loop: asyncio.AbstractEventLoop | None = None) -> None:
        # asyncio's loop is the default: starting and stopping it for each round costs less than uvloop's.
        self.loop = loop or asyncio.new_event_loop()
        self.transport = NullTransport()
        self.protocol = self.loop.run_until_complete(self.open(app))

    async def open(self, app: sockrpc.App) -> Peer:
        self.here = MemoryServer(app, ping_interval=None)
        protocol = Peer("server", self.here.service)
        protocol.connection_made(self.transport)
        protocol.open(b"")
        protocol.socket._opened("benchmark")
        protocol.begin()
        return protocol

    def close(self) -> None:
        self.loop.run_until_complete(self.end())
        self.loop.close()

    async def end(self) -> None:
        self.protocol.connection_lost(None)
        self.here.server.close()
        await self.here.server.wait_closed()
