"""Events with acknowledgements on python-socketio: WebSocket transport only, on uvicorn."""

from __future__ import annotations

import asyncio

import socketio

from bench.peers.uvicorn_server import serve
from bench.wire import FAN_OUT_BYTES, pattern

FAN_OUT = pattern(FAN_OUT_BYTES).decode()
server = socketio.AsyncServer(async_mode="asgi", transports=["websocket"], cors_allowed_origins=[])


@server.event
async def plain(sid: str, payload: str) -> str:
    return payload


@server.event
async def suspended(sid: str, payload: str) -> str:
    await asyncio.get_running_loop().create_future()
    return payload


@server.event
async def broadcast(sid: str) -> None:
    await server.emit("fanout", FAN_OUT)


if __name__ == "__main__":
    serve(socketio.ASGIApp(server))
