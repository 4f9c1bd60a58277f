import functools
from collections.abc import Awaitable, Callable

import sockrpc

app = sockrpc.App()

Handler = Callable[[sockrpc.Call], Awaitable[str]]


def only_for(*users: str) -> Callable[[Handler], Handler]:
    """Answers "forbidden" to everybody else."""

    def decorate(handler: Handler) -> Handler:
        @functools.wraps(handler)
        async def checked(call: sockrpc.Call) -> str:
            if getattr(call.socket.state, "user", None) not in users:
                return "forbidden"
            return await handler(call)

        return checked

    return decorate


@app.method("shut_down")
@only_for("alice")
async def shut_down(call: sockrpc.Call) -> str:
    return f"shut down by {call.socket.state.user}"
