"""Work whose beginning, cancel and end a test sees and decides."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import sockrpc


class Work:
    """A coroutine handler that runs until it may answer or is cancelled, and unwinds when it may.

    Attributes:
        calls: Those whose work has begun, in order.
        cancels: What `cancelling()` of the task said at each CancelledError.
        reasons: What `abort_reason` said at each CancelledError.
        ended: How many have ended, in whatever way.
    """

    def __init__(self) -> None:
        self.calls: list[sockrpc.Call] = []
        self.cancels: list[int] = []
        self.reasons: list[str | None] = []
        self.ended = 0
        self.may_answer = asyncio.Event()
        self.may_unwind = asyncio.Event()
        self.may_unwind.set()

    async def __call__(self, call: sockrpc.Call) -> bytes:
        self.calls.append(call)
        try:
            await self.may_answer.wait()
            return b"answer"
        except asyncio.CancelledError:
            self.note_cancel(call)
            await self.may_unwind.wait()
            raise
        finally:
            self.ended += 1

    def note_cancel(self, call: sockrpc.Call) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.cancels.append(task.cancelling())
        self.reasons.append(call.abort_reason)

    def app(self, **options: Any) -> sockrpc.App:
        """An app with this work as method "work", and a plain "echo"."""
        app = sockrpc.App()
        app.method("work", **options)(self)
        app.method("echo")(lambda call: call.payload)
        return app


class Stubborn(Work):
    """The same, but it swallows each cancel; only `may_unwind` ends it, with a value."""

    def __init__(self) -> None:
        super().__init__()
        self.may_unwind.clear()

    async def __call__(self, call: sockrpc.Call) -> bytes:
        self.calls.append(call)
        while not self.may_unwind.is_set():
            try:
                await self.may_unwind.wait()
            except asyncio.CancelledError:
                self.note_cancel(call)
        self.ended += 1
        return b"too late"


def for_each(
    handle: Callable[[sockrpc.Call], Awaitable[None] | None],
) -> Callable[[sockrpc.Socket], Awaitable[None]]:
    """A socket's coroutine that keeps no reference to the calls that it hands out."""

    async def handle_socket(socket: sockrpc.Socket) -> None:
        async for call in socket:
            assert isinstance(call, sockrpc.Call)
            result = handle(call)
            del call
            if result is not None:
                await result
                del result

    return handle_socket
