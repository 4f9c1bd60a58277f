"""A call that goes on while its caller does something else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator
from typing import Any

from sockrpc.codes import Code, Outcome
from sockrpc.errors import local_error
from sockrpc.peer.outgoing_call import OutgoingCall

__all__ = ["Handle"]


class Handle(Awaitable[bytes]):
    """A started call, made by `start`: `await handle` is its answer.

    Cancelling a task that awaits it resets the call, as with `call`. A handle that is dropped changes
    nothing.

    Attributes:
        method: The name that was called.
    """

    __slots__ = ("_call", "_connection", "_future", "_pump", "method")

    def __init__(
        self, connection: Any, call: OutgoingCall, method: str, pump: asyncio.Task[None] | None
    ) -> None:
        self.method = method
        self._connection = connection
        self._call = call
        self._future: asyncio.Future[bytes] = call.future
        self._pump = pump
        if pump is not None:
            self._future.add_done_callback(lambda _: pump.cancel())

    def __await__(self) -> Generator[Any, None, bytes]:
        try:
            return (yield from asyncio.shield(self._future).__await__())
        except asyncio.CancelledError:
            self.cancel()
            raise

    def cancel(self) -> asyncio.Future[Outcome]:
        """Reset the call now; the returned future tells what became of its work, once that is over.

        Nobody has to await it. To await the handle now raises `RPCError` CANCELLED. If the call has ended
        already, nothing is sent, and the outcome is known. With a v0.1 peer it is `Outcome.UNKNOWN`.

        Raises:
            UsageError: This belongs to another event loop.
        """
        self._connection.check_place()
        self._connection.cancel(
            self._call,
            local_error(Code.CANCELLED, f"the call of {self.method!r} was cancelled", Outcome.UNKNOWN),
        )
        return self._call.outcome_of(asyncio.get_running_loop())

    def done(self) -> bool:
        """True once the call has ended or was cancelled."""
        return self._future.done()

    def __repr__(self) -> str:
        return f"<Handle of {self.method!r}, {'done' if self.done() else 'running'}>"
