"""Parts that all servers of the comparison share: a core of their own, a printed port, an end by SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

HOST = "127.0.0.1"
# The load opens thousands of connections as fast as it can.
BACKLOG = 4096


def arguments(*names: str) -> argparse.Namespace:
    """Return the core to stay on, and the other arguments: numbers that default to 0."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--core", type=int, default=None)
    for name in names:
        parser.add_argument(f"--{name}", type=int, default=0)
    options = parser.parse_args()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    return options


def announce(port: int) -> None:
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()


def listening_socket() -> socket.socket:
    """Return a socket, for servers that need one instead of a port."""
    listener = socket.create_server((HOST, 0), backlog=BACKLOG)
    announce(listener.getsockname()[1])
    return listener


def run(begin: Callable[[asyncio.Future[None]], Awaitable[Any]]) -> None:
    """Run a server on uvloop until SIGTERM; `begin` gets the future that ends it."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        end: asyncio.Future[None] = loop.create_future()

        def stop() -> None:
            if not end.done():
                end.set_result(None)

        loop.add_signal_handler(signal.SIGTERM, stop)
        await begin(end)

    uvloop.run(main())


def run_protocol(factory: Callable[[], asyncio.BaseProtocol]) -> None:
    async def begin(end: asyncio.Future[None]) -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(factory, HOST, 0, backlog=BACKLOG)
        announce(server.sockets[0].getsockname()[1])
        await end
        server.close()

    run(begin)
