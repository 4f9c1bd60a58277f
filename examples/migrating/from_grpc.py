import asyncio

import sockrpc

app = sockrpc.App()


@app.method("shop.Shop/Search")
async def search(call: sockrpc.Call) -> bytes:
    if not call.payload:
        return b"error: what for?"
    await asyncio.sleep(1)
    return call.payload.upper()


if __name__ == "__main__":
    sockrpc.run(app, "127.0.0.1", 3000, max_in_flight=1024, stop_grace=10)
