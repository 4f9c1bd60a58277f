"""sockrpc with its defaults: limits, statistics and keepalive on.

`--quiet 1` sends no pings, for clients that only count bytes; `--raised 1` allows a connection 200,000 calls.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import sockrpc
from bench.peers.common import HOST, announce, arguments
from bench.wire import FAN_OUT_BYTES, WINDOW_BYTES, pattern

app = sockrpc.App()
everybody = sockrpc.Room()
# The number of calls of `hold` that have begun, and of those that were aborted.
held = [0, 0]
FAN_OUT = pattern(FAN_OUT_BYTES)
PAYLOAD = pattern(32)
WINDOW = pattern(WINDOW_BYTES)


@app.method("plain")
def plain(call: sockrpc.Call) -> bytes:
    return call.payload


@app.method("coroutine")
async def coroutine(call: sockrpc.Call) -> bytes:
    return call.payload


@app.method("suspending")
async def suspending(call: sockrpc.Call) -> bytes:
    await asyncio.sleep(0)
    return call.payload


@app.method("wait")
async def wait(call: sockrpc.Call) -> None:
    """Report when the handler runs and when it is cancelled."""
    call.socket.notify_nowait("running")
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        call.socket.notify_nowait("aborted")


@app.method("hold")
async def hold(call: sockrpc.Call) -> None:
    held[0] += 1
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        held[1] += 1


@app.method("suspended")
async def suspended(call: sockrpc.Call) -> None:
    await asyncio.get_running_loop().create_future()


@app.method("waiting")
async def waiting(call: sockrpc.Call) -> None:
    """Do what `wait` does, for peers that hear of its end by the protocol."""
    call.socket.notify_nowait("running")
    await asyncio.get_running_loop().create_future()


@app.method("failing")
def failing(call: sockrpc.Call) -> bytes:
    raise sockrpc.RPCError(sockrpc.Code.NOT_FOUND, "no such thing")


@app.method("endless")
async def endless(call: sockrpc.Call) -> AsyncIterator[bytes]:
    """Yield items of the size in the payload, and never wait."""
    item = pattern(int(call.text))
    while True:
        yield item


@app.method("stalled")
async def stalled(call: sockrpc.Call) -> AsyncIterator[bytes]:
    """Use up all credit, and wait for more."""
    while True:
        yield WINDOW


@app.method("upload")
async def upload(call: sockrpc.Call) -> str:
    count = 0
    async for _ in call.items():
        count += 1
    return str(count)


@app.method("ask")
async def ask(call: sockrpc.Call) -> str:
    """Call the caller back for so many seconds, so many calls at a time; return the calls a second."""
    seconds, in_flight = call.text.split()
    end = time.perf_counter() + float(seconds)
    done = 0

    async def work() -> None:
        nonlocal done
        while time.perf_counter() < end:
            answer = await call.socket.call("plain", PAYLOAD)
            assert answer == PAYLOAD
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(int(in_flight))))
    return str(done / (time.perf_counter() - began))


@app.method("held")
def report(call: sockrpc.Call) -> str:
    return f"{held[0]:08} {held[1]:08}"


@app.on_connect
def join(socket: sockrpc.Socket) -> None:
    if socket.request is not None and socket.request.path == "/fanout":
        everybody.join(socket)


@app.on("broadcast")
def broadcast(notification: sockrpc.Notification) -> None:
    everybody.broadcast("fanout", FAN_OUT)


def main() -> None:
    options = arguments("quiet", "raised")
    more: dict[str, Any] = {}
    if options.quiet:
        more["ping_interval"] = None
    if options.raised:
        more["max_in_flight"] = 200_000
    sockrpc.run(
        app,
        host=HOST,
        port=0,
        on_started=lambda server: announce(server.sockets[0].getsockname()[1]),
        **more,
    )


if __name__ == "__main__":
    main()
