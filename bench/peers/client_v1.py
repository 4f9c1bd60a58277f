"""A Python client of streams and of calls both ways, as JSON: `WHAT PORT SECONDS IN_FLIGHT`.

WHAT is calls (of the client), answers (to calls of the server), stream-sockrpc, or stream-websockets, where
the client is written by hand and gets the items of one stream as messages.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import uvloop
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

import sockrpc
from bench.peer import SUBPROTOCOL
from bench.peers.client import measure
from bench.peers.common import HOST
from bench.wire import pattern

PAYLOAD = pattern(32)
ITEM = 6

app = sockrpc.App()


@app.method("plain")
def plain(call: sockrpc.Call) -> bytes:
    return call.payload


async def items_by_hand(uri: str) -> AsyncIterator[bytes]:
    options: dict[str, Any] = {"compression": None, "max_size": None}
    async with connect(uri, subprotocols=[Subprotocol(SUBPROTOCOL)], **options) as connection:
        number = (1).to_bytes(4)
        await connection.send(b"\2" + number + b"\7endless" + b"32")
        async for message in connection:
            assert isinstance(message, bytes)
            if message[0] == ITEM and message[1:5] == number:
                yield message[5:]


async def read(items: Any, seconds: float) -> dict[str, Any]:
    """Count the items that come within the seconds, after a warm-up."""
    warm = time.perf_counter() + min(0.2, seconds / 4)
    end = warm + seconds
    count = begun_at = 0
    now = warm
    async for item in items:
        assert item == PAYLOAD
        count += 1
        # The clock is not part of what is measured.
        if count % 64 == 0:
            now = time.perf_counter()
            if now < warm:
                begun_at = count
            elif now >= end:
                break
    return {"answers": count - begun_at, "answers_per_second": (count - begun_at) / (now - warm)}


async def run(what: str, uri: str, seconds: float, in_flight: int) -> dict[str, Any]:
    if what == "stream-websockets":
        return await read(items_by_hand(uri), seconds)
    async with sockrpc.connect(uri, protocols=("sockrpc.v1",), app=app) as client:
        if what == "stream-sockrpc":
            return await read(client.stream("endless", "32"), seconds)
        if what == "calls":
            return await measure(client.call, seconds, in_flight)
        return {"answers_per_second": float(await client.call("ask", f"{seconds} {in_flight}"))}


def main() -> None:
    what, port, seconds, in_flight = sys.argv[1:]
    result = uvloop.run(run(what, f"ws://{HOST}:{port}/", float(seconds), int(in_flight)))
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
