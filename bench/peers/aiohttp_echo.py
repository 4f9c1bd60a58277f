"""A bare echo on aiohttp: compression and access log off; `/fanout` sends to everybody in turn."""

from __future__ import annotations

import asyncio

from aiohttp import WSMsgType, web

from bench.peers.common import arguments, listening_socket, run
from bench.wire import FAN_OUT_BYTES, pattern

FAN_OUT = pattern(FAN_OUT_BYTES)
everybody: set[web.WebSocketResponse] = set()


async def opened(request: web.Request) -> web.WebSocketResponse:
    response = web.WebSocketResponse(compress=False, max_msg_size=0)
    await response.prepare(request)
    return response


async def echo(request: web.Request) -> web.WebSocketResponse:
    response = await opened(request)
    async for message in response:
        if message.type is not WSMsgType.BINARY:
            break
        await response.send_bytes(message.data)
    return response


async def fan_out(request: web.Request) -> web.WebSocketResponse:
    response = await opened(request)
    everybody.add(response)
    async for _ in response:
        for each in everybody:
            await each.send_bytes(FAN_OUT)
    return response


async def begin(end: asyncio.Future[None]) -> None:
    app = web.Application()
    app.router.add_get("/", echo)
    app.router.add_get("/fanout", fan_out)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.SockSite(runner, listening_socket()).start()
    await end


if __name__ == "__main__":
    arguments()
    run(begin)
