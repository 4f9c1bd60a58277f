"""The service in front, a client of stock.py: python shop.py"""

import asyncio
import logging
import os

import sockrpc
from sockrpc import Code, DeadlineExceeded, RPCError

STOCK = os.environ.get("STOCK", "ws://127.0.0.1:3001/socket")

app = sockrpc.App()
connections: list[sockrpc.Client] = []


@app.on_start
async def connect() -> None:
    connections.append(await sockrpc.connect(STOCK))


@app.on_stop
async def disconnect() -> None:
    await connections.pop().close()


@app.method("order")
async def order(call: sockrpc.Call) -> bytes:
    await asyncio.sleep(0.2)  # some work of its own
    # No timeout here: this call takes what is left of the time of `call`.
    return await connections[0].call("reserve", call.payload)


@app.method("order_or_wait")
async def order_or_wait(call: sockrpc.Call) -> bytes:
    try:
        with sockrpc.deadline(0.5):  # the calls inside have half a second, or less if less is left
            return await connections[0].call("reserve", call.payload)
    except DeadlineExceeded:
        if call.remaining is not None and call.remaining < 1:
            raise RPCError(Code.UNAVAILABLE, "the stock is slow today", retry_after=30) from None
    return b"on the waiting list"


@app.method("remember")
async def remember(call: sockrpc.Call) -> bytes:
    with sockrpc.deadline(None):  # no limit for this call, for as long as this handler may run
        return await connections[0].call("reserve", call.payload)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    sockrpc.run(app, "127.0.0.1", 3000)
