import asyncio
from collections.abc import AsyncIterator

import sockrpc
from sockrpc import Code, RPCError

app = sockrpc.App()
readers = sockrpc.Room()


@app.on_connect
def connected(socket: sockrpc.Socket) -> None:
    readers.join(socket)


@app.method("Search")
async def search(call: sockrpc.Call) -> str:
    if not call.payload:
        raise RPCError(Code.INVALID_ARGUMENT, "what for?")
    await asyncio.sleep(0.5)
    return call.text.upper()


@app.method("Counter")
async def counter(call: sockrpc.Call) -> AsyncIterator[str]:
    for number in range(int(call.text)):
        yield str(number)
        await asyncio.sleep(0.1)


@app.method("UploadStream")
async def upload_stream(call: sockrpc.Call) -> str:
    return str(len([item async for item in call.items()]))


@app.method("WaitForMessage")
async def wait_for_message(call: sockrpc.Call) -> bytes:
    return await call.peer.call("GetMessage", timeout=30)


@app.on("Publish")
def publish(notification: sockrpc.Notification) -> None:
    readers.broadcast("Published", notification.payload)


if __name__ == "__main__":
    sockrpc.run(app, "127.0.0.1", 3000)
