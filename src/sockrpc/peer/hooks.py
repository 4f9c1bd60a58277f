"""The hooks that an application runs for each of its connections, and how their exceptions are judged."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sockrpc.sockets import Socket, SocketHandler, SocketHook

__all__ = ["ENDS_PROCESS", "Hooks", "is_cancelled", "run_hooks"]

# These are not failures of a hook: they are meant for the whole process, as from any task.
ENDS_PROCESS = (SystemExit, KeyboardInterrupt)


class Hooks:
    """The functions of an application that run beside its handlers."""

    __slots__ = ("handle_socket", "on_connect", "on_disconnect")

    def __init__(
        self,
        on_connect: list[SocketHook] | None = None,
        on_disconnect: list[SocketHook] | None = None,
        handle_socket: SocketHandler | None = None,
    ) -> None:
        self.on_connect = on_connect or []
        self.on_disconnect = on_disconnect or []
        self.handle_socket = handle_socket


def is_cancelled() -> bool:
    """True if the running task was cancelled; a CancelledError without that is a failure."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def run_hooks(hooks: list[SocketHook], socket: Socket) -> None:
    """Run hooks one after another; the first exception ends the run."""
    for hook in hooks:
        result = hook(socket)
        if inspect.isawaitable(result):
            await result
