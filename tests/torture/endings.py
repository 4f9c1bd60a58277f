"""What lost connections leave behind with the collector of garbage off, in bytes and in objects.

``python -m tests.torture.endings memory NAME LOOP`` prints MiB, ``cycles ROLE LOOP`` objects that are left.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import ctypes
import gc
import itertools
import json
import struct
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import sockrpc
from sockrpc._debug import live
from tests.kit.inside import abort_connection, attached, has_ended, is_idle
from tests.kit.loops import LOOPS, new_event_loop
from tests.kit.support import BINARY, CLOSE, TEXT, cut, frame, notify, opening, request
from tests.kit.tls import client_context, server_context

MIB = 1 << 20
CONNECTIONS = 1000
# Where a connection takes long, as its handshake of TLS takes the time of twenty others, and on the first of
# two loops: fewer, whose MiB each would still be far more than may be left.
FEWER_CONNECTIONS = 50
PENDING = bytes(MIB)
TINY = {"stop_grace": 5.0, "abort_grace": 5.0, "close_timeout": 1.0, "blocked_warning": None}


class Raw:
    """A raw connection in the server's own loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port: int, *, tls: bool = False, **headers: str) -> Raw:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client_context() if tls else None
        )
        writer.write(opening(**headers))
        await reader.readuntil(b"\r\n\r\n")
        return cls(reader, writer)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        with contextlib.suppress(OSError):
            await self.writer.drain()

    async def end(self, how: str) -> None:
        if how == "cut":
            cut(self.writer)
        elif how == "close frame":
            self.writer.write(frame(CLOSE, b"\x03\xe8"))
            with contextlib.suppress(OSError):
                await self.reader.read()
        elif how == "malformed":
            self.writer.write(frame(TEXT, b"text"))
            with contextlib.suppress(OSError):
                await self.reader.read()
        self.writer.transport.abort()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


def make_app() -> sockrpc.App:
    app = sockrpc.App()

    @app.method
    def echo(call: sockrpc.Call) -> bytes:
        return call.payload

    @app.method
    def megabyte(call: sockrpc.Call) -> bytes:
        return bytes(MIB)

    @app.method
    async def forever(call: sockrpc.Call) -> None:
        await asyncio.sleep(3600)

    @app.method(run_to_completion=True)
    async def soon(call: sockrpc.Call) -> None:
        await asyncio.sleep(0.01)

    @app.on
    async def waiting(notification: sockrpc.Notification) -> None:
        await asyncio.sleep(0)

    return app


async def form(socket: sockrpc.Socket) -> None:
    """Takes one procedure, and never another; the end of its connection does not cancel it."""
    await anext(socket)
    while not has_ended(socket):
        await asyncio.sleep(0)


async def form_that_takes(socket: sockrpc.Socket) -> None:
    async for procedure in socket:
        if isinstance(procedure, sockrpc.Call):
            if procedure.method == "echo":
                await procedure.respond(procedure.payload)
            else:
                procedure.spawn_and_abort_on_reset(asyncio.sleep(3600))


# What is pending when a connection is lost: bytes to send, and whether the app is one, TLS, compression.
HALF = b"\x82\xff" + struct.pack("!Q", MIB + 1000) + bytes(4) + PENDING
FRAGMENTS = frame(BINARY, PENDING[: MIB // 2], final=False) + frame(0, PENDING[: MIB // 2], final=False)
MEMORY: dict[str, tuple[bytes, Any, bool, bool]] = {
    "half a message": (HALF, "app", False, False),
    "half a message over TLS": (HALF, "app", True, False),
    "half a message with deflate": (HALF, "app", False, True),
    "fragments": (FRAGMENTS, "app", False, False),
    "waiting calls": (request(1, "forever") + request(2, "forever", PENDING), "app", False, False),
    "running calls": (request(1, "forever", PENDING), "app", False, False),
    "waiting notifications": (notify("waiting", PENDING) * 2, "app", False, False),
    "unsent output": (request(1, "megabyte"), "app", False, False),
    "untaken calls": (request(1, "first") + request(2, "x", PENDING), form, False, False),
    "untaken notifications": (notify("first") + notify("x", PENDING), form, False, False),
}


def resident() -> int:
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS")) * 1024


async def memory(name: str, connections: int) -> float:
    """By how many MiB the process has grown over so many connections that were lost."""
    data, app, tls, deflate = MEMORY[name]
    headers = {"Sec_WebSocket_Extensions": "permessage-deflate"} if deflate else {}
    async with sockrpc.serve(
        make_app() if app == "app" else app,
        "127.0.0.1",
        0,
        ssl=server_context() if tls else None,
        compression="deflate" if deflate else None,
        max_in_flight=1,
        max_notifications=1,
        **TINY,
    ) as server:
        port = server.sockets[0].getsockname()[1]

        async def one() -> None:
            raw = await Raw.connect(port, tls=tls, **headers)
            await raw.send(data)
            for _ in range(20):
                await asyncio.sleep(0)
            await raw.end("cut")
            while attached(server):
                await asyncio.sleep(0)

        for _ in range(20):
            await one()
        gc.collect()
        gc.disable()
        before = resident()
        for n in range(FEWER_CONNECTIONS if tls else connections):
            await one()
            if n % 50 == 49 and (resident() - before) / MIB > 300:
                # Enough to know; the rest would take the machine's memory.
                print(f"after {n} connections", file=sys.stderr)
                break
        return (resident() - before) / MIB


def ours() -> collections.Counter[str]:
    return collections.Counter(
        type(each).__qualname__
        for each in gc.get_objects()
        if str(type(each).__module__).startswith("sockrpc")
    )


APPS: dict[str, Callable[[], Any]] = {"app": make_app, "form": lambda: form_that_takes}
ENDINGS = ["cut", "close frame", "eof", "malformed"]
TRAFFIC = {
    "nothing": b"",
    "an answer": request(1, "echo", b"x"),
    "a call": request(1, "forever"),
    "a half message": b"\x82\xfe\xff\xff" + bytes(100),
    "a notification": notify("waiting"),
}


async def raw_cycles(app: str, tls: bool, deflate: bool) -> dict[str, dict[str, int]]:
    left: dict[str, dict[str, int]] = {}
    headers = {"Sec_WebSocket_Extensions": "permessage-deflate"} if deflate else {}
    async with sockrpc.serve(
        APPS[app](), "127.0.0.1", 0, ssl=server_context() if tls else None, compression="deflate", **TINY
    ) as server:
        port = server.sockets[0].getsockname()[1]

        async def one(how: str, data: bytes) -> None:
            raw = await Raw.connect(port, tls=tls, **headers)
            await raw.send(data)
            await asyncio.sleep(0.01)
            await raw.end(how)
            while not is_idle(server):
                await asyncio.sleep(0.001)

        for how in ENDINGS:
            for what, data in TRAFFIC.items():
                if "half" in what and how in ("close frame", "malformed"):
                    # It would be part of that message.
                    continue
                await compare(left, f"{what}, {how}", lambda how=how, data=data: one(how, data))  # type: ignore[misc]
    return left


async def client_cycles(app: str, tls: bool, deflate: bool) -> dict[str, dict[str, int]]:
    left: dict[str, dict[str, int]] = {}
    options: dict[str, Any] = {"ssl": client_context()} if tls else {}
    if deflate:
        options["compression"] = "deflate"
    async with sockrpc.serve(
        APPS[app](), "127.0.0.1", 0, ssl=server_context() if tls else None, compression="deflate", **TINY
    ) as server:
        uri = f"{'wss' if tls else 'ws'}://127.0.0.1:{server.sockets[0].getsockname()[1]}/"

        async def one(how: str) -> None:
            client = await sockrpc.connect(uri, **options)
            listener = client.on("news")
            assert await client.call("echo", b"x") == b"x"
            task = asyncio.create_task(client.call("forever"))
            hearing = asyncio.create_task(anext(listener))  # type: ignore[arg-type]
            await asyncio.sleep(0.01)
            if how == "client closes":
                await client.close()
            elif how == "server closes":
                (socket,) = server.connections
                await socket.close(1000)
                del socket
            elif how == "server aborts":
                (socket,) = server.connections
                abort_connection(socket, "gone")
                del socket
            await client.wait_closed()
            await asyncio.wait([task, hearing])
            task.exception(), hearing.exception()
            while not is_idle(server):
                await asyncio.sleep(0.001)

        async def refused() -> None:
            with contextlib.suppress(sockrpc.SockRPCError):
                await sockrpc.connect(
                    uri.replace("127.0.0.1", "localhost"), origin="http://elsewhere.example", **options
                )
            while not is_idle(server):
                await asyncio.sleep(0.001)

        for how in ("client closes", "server closes", "server aborts"):
            await compare(left, how, lambda how=how: one(how))  # type: ignore[misc]
        await compare(left, "refused", refused)
    return left


async def compare(left: dict[str, dict[str, int]], what: str, one: Callable[[], Awaitable[None]]) -> None:
    """Do it twice, and note what the second time left; the first may fill caches."""
    await one()
    await asyncio.sleep(0.005)
    gc.collect()
    gc.disable()
    before, counted = ours(), collections.Counter(live())
    await one()
    await asyncio.sleep(0.005)
    found = dict(ours() - before) | dict(collections.Counter(live()) - counted)
    gc.enable()
    gc.collect()
    if found:
        left[what] = found


CYCLES = {"raw": raw_cycles, "client": client_cycles}


async def all_cycles(role: str) -> dict[str, dict[str, dict[str, int]]]:
    """With each application, with and without TLS and compression; where nothing is left, nothing."""
    # Neither collected nor counted each time: what was imported.
    gc.collect()
    gc.freeze()
    left = {}
    for app, tls, deflate in itertools.product(APPS, (False, True), (False, True)):
        found = await CYCLES[role](app, tls, deflate)
        if found:
            left[f"{app}, TLS {tls}, deflate {deflate}"] = found
    return left


def main() -> None:
    kind, name, loop_kind = sys.argv[1:4]
    loop = new_event_loop(loop_kind)
    asyncio.set_event_loop(loop)
    if kind == "memory":
        connections = CONNECTIONS if loop_kind == LOOPS[-1] else FEWER_CONNECTIONS
        print(json.dumps(loop.run_until_complete(memory(name, connections))))
    else:
        print(json.dumps(loop.run_until_complete(all_cycles(name))))


if __name__ == "__main__":
    main()
