"""A server of one tracked feed, a process of its own that can be killed; its argument is the port.

Prints "ready" when it listens.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator

import sockrpc

app = sockrpc.App()


def item_at(number: int) -> bytes:
    """The payload of an item, of 0 to 2,040 bytes."""
    digest = hashlib.sha256(str(number).encode()).digest()
    return digest * (digest[0] // 4) + str(number).encode()


@app.method
async def feed(call: sockrpc.Call) -> AsyncIterator[sockrpc.Tracked]:
    number = 0 if call.resume_from is None else int(call.resume_from) + 1
    while number < int(call.text):
        yield sockrpc.Tracked(item_at(number), str(number).encode())
        number += 1
        if number % 50 == 0:
            await asyncio.sleep(0.001)


def tell(_: object) -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sockrpc.run(app, "127.0.0.1", int(sys.argv[1]), on_started=tell)
