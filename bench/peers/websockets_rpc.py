"""websocket.io-rpc-v0.1 written by hand on websockets: a dict of tasks, which a reset cancels.

This is how an expert in asyncio would write cancellation by hand; it never waits longer than it has to.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from bench.peer import SUBPROTOCOL
from bench.peers.common import BACKLOG, HOST, announce, arguments, run
from bench.wire import pattern

Method = Callable[[ServerConnection, bytes], Awaitable[bytes]]
Stream = Callable[[bytes], AsyncIterator[bytes]]

# The opcodes of the frames. An item of a stream has an id and a payload.
NOTIFY, REQUEST, RESET, RESPONSE, _, ITEM = range(1, 7)


async def plain(connection: ServerConnection, payload: bytes) -> bytes:
    return payload


async def suspending(connection: ServerConnection, payload: bytes) -> bytes:
    await asyncio.sleep(0)
    return payload


async def notify(connection: ServerConnection, event: bytes) -> None:
    await connection.send(bytes([NOTIFY, len(event)]) + event)


async def wait(connection: ServerConnection, payload: bytes) -> bytes:
    await notify(connection, b"running")
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        await notify(connection, b"aborted")
    return b""


async def suspended(connection: ServerConnection, payload: bytes) -> bytes:
    await asyncio.get_running_loop().create_future()
    return b""


async def endless(payload: bytes) -> AsyncIterator[bytes]:
    item = pattern(int(payload))
    while True:
        yield item


METHODS: dict[bytes, Method] = {
    b"plain": plain,
    b"coroutine": plain,
    b"suspending": suspending,
    b"wait": wait,
    b"suspended": suspended,
}

STREAMS = {b"endless": endless}


async def stream(connection: ServerConnection, method: Stream, id: bytes, payload: bytes) -> None:
    """Send the items of a stream; `send` waits while the peer does not read."""
    head = bytes([ITEM]) + id
    try:
        async for item in method(payload):
            await connection.send(head + item)
        await connection.send(bytes([RESPONSE]) + id)
    except ConnectionClosed:
        pass


async def answer(connection: ServerConnection, method: Method, id: bytes, payload: bytes) -> None:
    result = await method(connection, payload)
    try:
        await connection.send(b"\4" + id + result)
    except ConnectionClosed:
        pass


def forget(tasks: dict[bytes, asyncio.Task[None]], id: bytes, task: asyncio.Task[None]) -> None:
    if tasks.get(id) is task:
        del tasks[id]


async def handle(connection: ServerConnection) -> None:
    tasks: dict[bytes, asyncio.Task[None]] = {}
    loop = asyncio.get_running_loop()
    try:
        async for message in connection:
            assert isinstance(message, bytes)
            number = message[1:5]
            if message[0] == REQUEST:
                end = 6 + message[5]
                name, payload = message[6:end], message[end:]
                if name in STREAMS:
                    work = stream(connection, STREAMS[name], number, payload)
                else:
                    work = answer(connection, METHODS[name], number, payload)
                task = loop.create_task(work)
                tasks[number] = task
                task.add_done_callback(functools.partial(forget, tasks, number))
            elif message[0] == RESET and number in tasks:
                tasks.pop(number).cancel()
    finally:
        for task in list(tasks.values()):
            task.cancel()


async def begin(end: asyncio.Future[None]) -> None:
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    options: dict[str, Any] = {"compression": None, "max_size": None, "backlog": BACKLOG}
    async with serve(handle, HOST, 0, subprotocols=[Subprotocol(SUBPROTOCOL)], **options) as server:
        announce(next(iter(server.sockets)).getsockname()[1])
        await end


if __name__ == "__main__":
    arguments()
    run(begin)
