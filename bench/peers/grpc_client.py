"""The load for grpc.aio without h2load: resets, calls and connections that are held. It prints JSON.

`reset` times an echo and a cancelled call in turn, both with this client, so that the ratio is the server's.
`hold CONNECTIONS CALLS` prints "ready" when they are open, and ends with its input.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import grpc

from bench.peers.common import HOST
from bench.peers.grpc_server import OPTIONS, SERVICE
from bench.tables import quantiles
from bench.wire import pattern


def opened(port: int) -> Any:
    # Channels with equal arguments would share one connection.
    return grpc.aio.insecure_channel(
        f"{HOST}:{port}", options=[*OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
    )


async def reset(port: int, seconds: float) -> dict[str, Any]:
    async with opened(port) as channel:
        plain = channel.unary_unary(f"/{SERVICE}/plain")
        wait = channel.unary_unary(f"/{SERVICE}/wait")
        events = channel.unary_stream(f"/{SERVICE}/listen")(b"")
        payload = pattern(32)
        echoes: list[float] = []
        resets: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            begin = time.perf_counter()
            assert await plain(payload) == payload
            echoes.append((time.perf_counter() - begin) * 1e6)
            call = wait(b"")
            assert await events.read() == b"running"
            begin = time.perf_counter()
            call.cancel()
            assert await events.read() == b"aborted"
            resets.append((time.perf_counter() - begin) * 1e6)
        events.cancel()
        return {"round_trip_us": quantiles(echoes), "reset_us": quantiles(resets)}


async def hold(port: int, connections: int, calls: int) -> None:
    channels = [opened(port) for _ in range(connections)]
    held = []
    for channel in channels:
        await channel.channel_ready()
        suspended = channel.unary_unary(f"/{SERVICE}/suspended")
        held += [suspended(b"") for _ in range(calls)]
        await channel.unary_unary(f"/{SERVICE}/plain")(b"")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for call in held:
        call.cancel()
    for channel in channels:
        await channel.close()


async def check(port: int) -> dict[str, Any]:
    """Check an answer, because h2load checks none."""
    async with opened(port) as channel:
        for size in (0, 32, 64 * 1024):
            payload = pattern(size)
            assert await channel.unary_unary(f"/{SERVICE}/plain")(payload) == payload
    return {"ok": True}


def main() -> None:
    what, port, *rest = sys.argv[1:]
    if what == "hold":
        asyncio.run(hold(int(port), int(rest[0]), int(rest[1])))
    elif what == "reset":
        sys.stdout.write(json.dumps(asyncio.run(reset(int(port), float(rest[0])))) + "\n")
    else:
        sys.stdout.write(json.dumps(asyncio.run(check(int(port)))) + "\n")


if __name__ == "__main__":
    main()
