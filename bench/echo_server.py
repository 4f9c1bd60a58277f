"""The server of the benchmarks: `python echo_server.py CORE`; prints its port."""

from __future__ import annotations

import asyncio
import os
import sys

import sockrpc

app = sockrpc.App()


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
    """Say when it runs and when it is cancelled."""
    call.socket.notify_nowait("running")
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        call.socket.notify_nowait("aborted")


def main() -> None:
    if sys.argv[1] != "None":
        os.sched_setaffinity(0, {int(sys.argv[1])})
    sockrpc.run(
        app,
        port=0,
        on_started=lambda server: print(server.sockets[0].getsockname()[1], flush=True),
        # No pings into what is measured.
        ping_interval=None,
    )


if __name__ == "__main__":
    main()
