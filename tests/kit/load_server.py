"""The server of the load test, a process of its own: what it needs of memory is its own, too.

Prints its port when it listens, and its statistics when it has stopped. `report` answers with both
statistics and the resident memory.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import logging
import os
import random
import sys
import time
from typing import Any

import sockrpc

app = sockrpc.App()
errors: list[str] = []
undone = {"aborted": 0, "undone": 0, "slowly": 0}
chance = random.Random(1)


class ErrorCounter(logging.Handler):
    """Sees what sockrpc logs as an error, and what asyncio does: unexpected exceptions."""

    def emit(self, record: logging.LogRecord) -> None:
        errors.append(self.format(record))


def a_while() -> float:
    return chance.random() * 0.004


@app.method("plain")
def plain(call: sockrpc.Call) -> bytes:
    return call.payload


@app.method("coroutine")
async def coroutine(call: sockrpc.Call) -> bytes:
    return call.payload


@app.method("turn")
async def turn(call: sockrpc.Call) -> bytes:
    await asyncio.sleep(0)
    return call.payload


@app.method("sleep")
async def sleep(call: sockrpc.Call) -> bytes:
    await asyncio.sleep(a_while())
    return call.payload


@app.method("large")
async def large(call: sockrpc.Call) -> bytes:
    await asyncio.sleep(0)
    return call.payload + bytes(40_000)


@app.method("cleanup")
async def cleanup(call: sockrpc.Call) -> bytes:
    try:
        await asyncio.sleep(a_while())
    finally:
        await asyncio.sleep(0.001)
    return call.payload


@app.method("stubborn")
async def stubborn(call: sockrpc.Call) -> bytes:
    try:
        await asyncio.sleep(a_while())
    except asyncio.CancelledError:
        await asyncio.sleep(0.001)
    return call.payload


@app.method("early")
async def early(call: sockrpc.Call) -> None:
    await call.respond(call.payload)
    await asyncio.sleep(a_while())


@app.method("spawned")
async def spawned(call: sockrpc.Call) -> None:
    async def answer() -> None:
        await asyncio.sleep(a_while())
        await call.respond(call.payload)

    call.spawn_and_abort_on_reset(answer())


@app.method("guarded")
async def guarded(call: sockrpc.Call) -> bytes | None:
    done = await call.abort_on_reset(asyncio.sleep(a_while(), "done"))
    return call.payload if done else None


@app.method("undone")
async def hooked(call: sockrpc.Call) -> bytes:
    call.on_abort(count, "undone")
    call.on_abort(count_slowly)
    try:
        await asyncio.sleep(a_while())
    except asyncio.CancelledError:
        undone["aborted"] += 1
        raise
    return call.payload


def count(what: str) -> None:
    undone[what] += 1


async def count_slowly() -> None:
    await asyncio.sleep(0)
    undone["slowly"] += 1


@app.method("completing", run_to_completion=True)
async def completing(call: sockrpc.Call) -> bytes:
    await asyncio.sleep(a_while())
    return call.payload


@app.method("timed", timeout=60.0)
async def timed(call: sockrpc.Call) -> bytes:
    async with asyncio.timeout(30.0), asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(a_while()))
        group.create_task(asyncio.sleep(a_while()))
    return call.payload


@app.method("thread", thread=True)
def thread(call: sockrpc.Call) -> bytes:
    for _ in range(4):
        call.raise_if_reset()
        time.sleep(0.0005)
    return call.payload


@app.on("tick")
async def tick(notification: sockrpc.Notification) -> None:
    await asyncio.sleep(0)
    await notification.socket.notify("tock", notification.payload)


def resident_bytes() -> int:
    """The memory of this process; where the system does not tell, the most that it ever was."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:
        pass
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def report(server: sockrpc.Server) -> dict[str, Any]:
    return {
        "statistics": dataclasses.asdict(server.statistics()),
        "resident_bytes": resident_bytes(),
        "objects": len(gc.get_objects()),
        "errors": errors[:5],
        **undone,
    }


def main() -> None:
    for name in ("sockrpc", "asyncio"):
        logging.getLogger(name).addHandler(ErrorCounter(logging.ERROR))
    servers: list[sockrpc.Server] = []
    app.method("report")(lambda call: json.dumps(report(servers[0])))

    def started(server: sockrpc.Server) -> None:
        servers.append(server)
        print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201

    sockrpc.run(app, port=0, on_started=started)
    print(json.dumps(report(servers[0])), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
