import asyncio
import json

import sockrpc

app = sockrpc.App()
readers = sockrpc.Room()


@app.on_connect
def connect(socket: sockrpc.Socket) -> None:
    readers.join(socket)


@app.method("search")
async def search(call: sockrpc.Call) -> str:
    data = json.loads(call.payload)
    await asyncio.sleep(1)  # aborted here
    return json.dumps({"found": data["text"].upper()})


@app.on("publish")
def publish(notification: sockrpc.Notification) -> None:
    readers.broadcast("published", notification.payload)


if __name__ == "__main__":
    sockrpc.run(app, port=3000)
