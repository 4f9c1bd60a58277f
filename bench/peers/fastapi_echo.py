"""A bare echo as a plain FastAPI WebSocket; `/fanout` sends to everybody in turn."""

from __future__ import annotations

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from bench.peers.uvicorn_server import serve
from bench.wire import FAN_OUT_BYTES, pattern

FAN_OUT = pattern(FAN_OUT_BYTES)
app = FastAPI()
everybody: set[WebSocket] = set()


@app.websocket("/")
async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        while True:
            await websocket.send_bytes(await websocket.receive_bytes())
    except WebSocketDisconnect:
        pass


@app.websocket("/fanout")
async def fan_out(websocket: WebSocket) -> None:
    await websocket.accept()
    everybody.add(websocket)
    try:
        while True:
            await websocket.receive_bytes()
            for each in everybody:
                await each.send_bytes(FAN_OUT)
    except WebSocketDisconnect:
        everybody.discard(websocket)


if __name__ == "__main__":
    serve(app)
