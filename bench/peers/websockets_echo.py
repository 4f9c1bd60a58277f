"""A bare echo on websockets: no RPC, compression off, no queue limit in the way; `/fanout` broadcasts."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from websockets.asyncio.server import ServerConnection, broadcast, serve

from bench.peers.common import BACKLOG, HOST, announce, arguments, run
from bench.wire import FAN_OUT_BYTES, pattern

FAN_OUT = pattern(FAN_OUT_BYTES)
everybody: set[ServerConnection] = set()


async def handle(connection: ServerConnection) -> None:
    assert connection.request is not None
    if connection.request.path == "/fanout":
        everybody.add(connection)
        async for _ in connection:
            broadcast(everybody, FAN_OUT)
    else:
        async for message in connection:
            await connection.send(message)


async def begin(end: asyncio.Future[None]) -> None:
    # Do not log the connections that the load cuts.
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    options: dict[str, Any] = {"compression": None, "max_size": None, "backlog": BACKLOG}
    async with serve(handle, HOST, 0, **options) as server:
        announce(next(iter(server.sockets)).getsockname()[1])
        await end


if __name__ == "__main__":
    arguments()
    run(begin)
