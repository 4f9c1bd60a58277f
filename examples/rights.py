import functools
from collections.abc import Callable, Coroutine
from typing import Any

import sockrpc
from sockrpc import Code, RPCError

app = sockrpc.App()

Handler = Callable[[sockrpc.Call], Coroutine[Any, Any, str]]


def only_for(*users: str) -> Callable[[Handler], Handler]:
    """Fail the calls of everybody else."""

    def decorate(handler: Handler) -> Handler:
        @functools.wraps(handler)
        async def checked(call: sockrpc.Call) -> str:
            if getattr(call.socket.state, "user", None) not in users:
                raise RPCError(Code.PERMISSION_DENIED, f"{call.method} is not for you")
            return await handler(call)

        return checked

    return decorate


@app.method("shut_down")
@only_for("alice")
async def shut_down(call: sockrpc.Call) -> str:
    return f"shut down by {call.socket.state.user}"
