import sockrpc
from sockrpc import Code, RPCError

TOKENS = {"alices-token": "Alice"}

app = sockrpc.App()


@app.on_connect
def let_in(socket: sockrpc.Socket) -> None:
    user = TOKENS.get(socket.metadata.text("authorization") or "")
    if user is None:
        raise RPCError(Code.UNAUTHENTICATED, "who are you?")
    socket.state.user = user


@app.method("delete")
async def delete(call: sockrpc.Call) -> str:
    answer = await call.peer.call("confirm", f"{call.socket.state.user}, delete {call.text}?", timeout=20)
    if answer != b"yes":
        raise RPCError(Code.ABORTED, f"{call.text} stays")
    return f"{call.text} is deleted"


@app.on("ready")
async def ready(notification: sockrpc.Notification) -> None:
    await notification.socket.call("show", "welcome back", timeout=5)
