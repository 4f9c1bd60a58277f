import asyncio

import sockrpc
from sockrpc import Code, RPCError

app = sockrpc.App()


@app.method("shop.Shop/Search")
async def search(call: sockrpc.Call) -> bytes:
    if not call.payload:
        raise RPCError(Code.INVALID_ARGUMENT, "what for?")
    await asyncio.sleep(1)
    return call.payload.upper()


if __name__ == "__main__":
    sockrpc.run(app, "127.0.0.1", 3000, max_in_flight=1024, stop_grace=10)
