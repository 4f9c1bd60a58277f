import asyncio

import socketio
from aiohttp import web

sio = socketio.AsyncServer(async_mode="aiohttp")
app = web.Application()
sio.attach(app)


@sio.event
async def connect(sid: str, environ: dict[str, object], auth: object) -> None:
    await sio.enter_room(sid, "readers")


@sio.event
async def search(sid: str, data: dict[str, str]) -> dict[str, str]:
    await asyncio.sleep(1)  # goes on after the caller has given up
    return {"found": data["text"].upper()}


@sio.event
async def publish(sid: str, data: str) -> None:
    await sio.emit("published", data, room="readers")


if __name__ == "__main__":
    web.run_app(app, port=3000)
