"""The server that is attacked, a process of its own.

Its argument is JSON with `loop`, `limits`, `files` (the soft limit of descriptors) and `tls`. Prints its
port when it listens. `report` answers with its statistics and what it has logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import dataclasses
import gc
import json
import logging
import os
import sys
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import sockrpc

app = sockrpc.App()
lines: list[tuple[str, str, str]] = []
opened: list[int] = []
release: asyncio.Event | None = None


class Recorder(logging.Handler):
    """What was logged: level, logger, text."""

    def emit(self, record: logging.LogRecord) -> None:
        lines.append((record.levelname, record.name, record.getMessage()))


@app.method("echo")
def echo(call: sockrpc.Call) -> bytes:
    return call.payload


@app.method("megabytes")
def megabytes(call: sockrpc.Call) -> bytes:
    return bytes(int(call.text) << 20)


@app.method("forever")
async def forever(call: sockrpc.Call) -> None:
    await asyncio.Event().wait()


@app.method("stream")
async def stream(call: sockrpc.Call) -> AsyncIterator[bytes]:
    while True:
        yield b"x" * 20


@app.method("send")
async def send(call: sockrpc.Call) -> None:
    while True:
        await call.send(b"x" * 20)


@app.method("count")
async def count(call: sockrpc.Call) -> str:
    return str(len([True async for _ in call.items()]))


@app.method("upload")
async def upload(call: sockrpc.Call) -> None:
    """Take no item."""
    await asyncio.Event().wait()


@app.method("refuse")
def refuse(call: sockrpc.Call) -> None:
    raise sockrpc.RPCError(sockrpc.Code.ABORTED, "no")


@app.method("stubborn")
async def stubborn(call: sockrpc.Call) -> None:
    global release  # noqa: PLW0603
    release = release or asyncio.Event()
    while not release.is_set():
        try:
            await release.wait()
        except asyncio.CancelledError:
            continue


@app.method("late")
async def late(call: sockrpc.Call) -> bytes:
    """A megabyte, when `relent` was called and so many iterations of the loop after that."""
    global release  # noqa: PLW0603
    release = release or asyncio.Event()
    await release.wait()
    for _ in range(int(call.text)):
        await asyncio.sleep(0)
    return b"x" * (1 << 20)


@app.method("relent")
def relent(call: sockrpc.Call) -> None:
    assert release is not None
    release.set()


@app.method("block")
def block(call: sockrpc.Call) -> None:
    time.sleep(float(call.text))


@app.method("block_later")
async def block_later(call: sockrpc.Call) -> None:
    await asyncio.sleep(0)
    crunch(float(call.text))


def crunch(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


@app.on("block_event")
async def block_event(notification: sockrpc.Notification) -> None:
    await asyncio.sleep(0)
    crunch(float(notification.text))


@app.method("open_files")
def open_files(call: sockrpc.Call) -> str:
    try:
        while True:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return f"{len(opened)} {error.errno}"


@app.method("close_files")
def close_files(call: sockrpc.Call) -> None:
    while opened:
        os.close(opened.pop())


@app.method("give_back")
def give_back(call: sockrpc.Call) -> str:
    """Return to the system what the allocators keep for later; how many blocks are in use then."""
    gc.collect()
    with contextlib.suppress(AttributeError):
        # glibc has it, musl does not.
        ctypes.CDLL(None).malloc_trim(0)
    return str(sys.getallocatedblocks())


def report(server: sockrpc.Server) -> str:
    threads = [each.name for each in threading.enumerate()]
    # Ends are counted by code and by outcome too, which are no keys of JSON.
    counts = {name: n for name, n in dataclasses.asdict(server.statistics()).items() if isinstance(n, int)}
    return json.dumps({"statistics": counts, "lines": lines, "threads": threads})


def main() -> None:
    options: dict[str, Any] = json.loads(sys.argv[1])
    if options.get("files"):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (options["files"], hard))
    logging.basicConfig(level=logging.WARNING, handlers=[Recorder()])
    tls = None
    if options.get("tls"):
        import ssl

        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(options["tls"])
    servers: list[sockrpc.Server] = []
    app.method("report")(lambda call: report(servers[0]))

    def started(server: sockrpc.Server) -> None:
        servers.append(server)
        print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201

    sockrpc.run(app, port=0, loop=options["loop"], ssl=tls, on_started=started, **options["limits"])
    print(report(servers[0]), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
