"""One server for new clients and for pages that speak websocket.io-rpc-v0.1."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

import sockrpc
from sockrpc import Code, RPCError

app = sockrpc.App()

Handler = Callable[[sockrpc.Call], Coroutine[Any, Any, str]]


def answered_in_v0(handler: Handler) -> Handler:
    """Put an error into the answer, where the protocol has none."""

    @functools.wraps(handler)
    async def wrapped(call: sockrpc.Call) -> str:
        try:
            return await handler(call)
        except RPCError as error:
            if call.socket.subprotocol == "sockrpc.v1":
                raise
            return f"error: {error.message}"

    return wrapped


@app.method("search")
@answered_in_v0
async def search(call: sockrpc.Call) -> str:
    if not call.payload:
        raise RPCError(Code.INVALID_ARGUMENT, "what for?")
    await asyncio.sleep(0.1)
    return call.text.upper()


if __name__ == "__main__":
    sockrpc.run(app, "127.0.0.1", 3000)
