"""The same methods on grpc.aio, as generic handlers on bytes, which avoids the cost of protobuf.

`wait` reports on the stream of `events` when it runs and when it is cancelled. grpc.aio does not run on
uvloop.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import grpc

from bench.peers.common import HOST, announce, arguments

SERVICE = "bench"
OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_concurrent_streams", 1_000_000),
]
events: asyncio.Queue[bytes] = asyncio.Queue()


async def plain(request: bytes, context: Any) -> bytes:
    return request


async def suspending(request: bytes, context: Any) -> bytes:
    await asyncio.sleep(0)
    return request


async def wait(request: bytes, context: Any) -> bytes:
    events.put_nowait(b"running")
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        events.put_nowait(b"aborted")
    return request


async def suspended(request: bytes, context: Any) -> bytes:
    await asyncio.get_running_loop().create_future()
    return request


async def listen(request: bytes, context: Any) -> AsyncIterator[bytes]:
    while True:
        yield await events.get()


async def main() -> None:
    server = grpc.aio.server(options=OPTIONS)
    handlers = {
        method.__name__: grpc.unary_unary_rpc_method_handler(method)
        for method in (plain, suspending, wait, suspended)
    }
    handlers["listen"] = grpc.unary_stream_rpc_method_handler(listen)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port(f"{HOST}:0")
    await server.start()
    announce(port)
    end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end.set)
    await end.wait()
    await server.stop(0)


if __name__ == "__main__":
    arguments()
    asyncio.run(main())
