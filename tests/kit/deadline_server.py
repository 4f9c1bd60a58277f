"""A server among several, a process of its own, whose calls take a deadline on.

Its argument is the port of the server behind it, if there is one. Prints its own when it listens.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import sockrpc

V1 = ("sockrpc.v1",)

app = sockrpc.App()
# One entry per call of `work`: seconds it had left when it began, and the time when it was aborted. The clock
# is the same in all processes of a system.
record: list[dict[str, Any]] = []


@app.method
async def work(call: sockrpc.Call) -> bytes:
    """Works for ever, or lets the server behind this one do so after a while."""
    entry: dict[str, Any] = {"left": call.remaining, "aborted": None}
    record.append(entry)
    try:
        if len(sys.argv) > 1:
            await asyncio.sleep(float(call.text))
            async with sockrpc.connect(f"ws://127.0.0.1:{sys.argv[1]}/", protocols=V1) as behind:
                return await behind.call("work", call.payload)
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        entry["aborted"] = time.monotonic()
        entry["reason"] = call.abort_reason
        raise
    raise AssertionError


@app.method
def report(call: sockrpc.Call) -> str:
    return json.dumps(record)


def tell(server: sockrpc.Server) -> None:
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sockrpc.run(app, "127.0.0.1", 0, on_started=tell)
