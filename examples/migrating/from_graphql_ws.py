import asyncio
import json
from collections.abc import AsyncIterator

import sockrpc
from sockrpc import Code, RPCError, Tracked

TOKENS = {"alices-token": "Alice"}
GREETINGS = ["Hi", "Bonjour", "Hola", "Ciao", "Zdravo"]

app = sockrpc.App()


@app.on_connect
def connection_init(socket: sockrpc.Socket) -> None:
    socket.state.user = TOKENS.get(socket.metadata.text("authorization") or "")
    if socket.state.user is None:
        raise RPCError(Code.UNAUTHENTICATED, "who are you?")


@app.method("hello")
def hello(call: sockrpc.Call) -> str:
    return json.dumps({"hello": f"Hello {call.socket.state.user}"})


@app.method("greetings")
async def greetings(call: sockrpc.Call) -> AsyncIterator[Tracked]:
    """Go on behind the cursor of a client that was here before."""
    first = 0 if call.resume_from is None else int(call.resume_from) + 1
    for number in range(first, len(GREETINGS)):
        yield Tracked(json.dumps({"greetings": GREETINGS[number]}), str(number).encode())
        await asyncio.sleep(0.1)


if __name__ == "__main__":
    sockrpc.run(app, "127.0.0.1", 3000)
