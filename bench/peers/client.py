"""Calls of a Python client on one connection, as JSON: `sockrpc|websockets PORT SECONDS IN_FLIGHT`.

The client on websockets is written by hand: a dict of futures, filled by a task that reads.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

import sockrpc
from bench.peer import SUBPROTOCOL
from bench.peers.common import HOST
from bench.wire import pattern

Call = Callable[[str, bytes], Awaitable[bytes]]


class Client:
    """The shortest possible calls over websockets, without cancellation and time-outs."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.last_id = 0
        self.pending: dict[bytes, asyncio.Future[bytes]] = {}
        self.reading = asyncio.ensure_future(self.read())

    async def read(self) -> None:
        async for message in self.connection:
            assert isinstance(message, bytes)
            future = self.pending.pop(message[1:5], None)
            if future is not None and not future.done():
                future.set_result(message[5:])

    async def call(self, method: str, payload: bytes) -> bytes:
        self.last_id += 1
        number = self.last_id.to_bytes(4)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.pending[number] = future
        await self.connection.send(b"\2" + number + bytes([len(method)]) + method.encode() + payload)
        return await future


async def measure(call: Call, seconds: float, in_flight: int) -> dict[str, Any]:
    payload = pattern(32)
    done = 0
    warm = time.perf_counter() + min(0.2, seconds / 4)
    end = warm + seconds

    async def work() -> None:
        nonlocal done
        while (now := time.perf_counter()) < end:
            answer = await call("plain", payload)
            assert answer == payload
            done += now >= warm

    await asyncio.gather(*(work() for _ in range(in_flight)))
    return {"answers": done, "answers_per_second": done / (time.perf_counter() - warm)}


async def run(kind: str, port: int, seconds: float, in_flight: int) -> dict[str, Any]:
    uri = f"ws://{HOST}:{port}/"
    if kind == "sockrpc":
        async with sockrpc.connect(uri) as ours:
            return await measure(ours.call, seconds, in_flight)
    options: dict[str, Any] = {"compression": None, "max_size": None}
    async with connect(uri, subprotocols=[Subprotocol(SUBPROTOCOL)], **options) as connection:
        return await measure(Client(connection).call, seconds, in_flight)


def main() -> None:
    kind, port, seconds, in_flight = sys.argv[1:]
    result = uvloop.run(run(kind, int(port), float(seconds), int(in_flight)))
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
