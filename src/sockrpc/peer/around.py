"""Hooks around every handler of an app: what they do before, after and instead of it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from sockrpc.errors import UsageError
from sockrpc.peer.call import Call
from sockrpc.peer.handler import Handler

__all__ = ["AroundHook", "surround"]

Proceed = Callable[[], Awaitable[Any]]
AroundHook = Callable[[Call, Proceed], Awaitable[Any]]


def surround(hooks: Sequence[AroundHook], handler: Handler) -> Handler:
    """Return a handler that runs the hooks, the first of them outermost, around another."""
    inner = as_coroutine(handler)

    async def surrounded(call: Call) -> Any:
        return await step(call, 0)

    def step(call: Call, index: int) -> Awaitable[Any]:
        if index == len(hooks):
            return inner(call)
        proceeded = False

        def proceed() -> Awaitable[Any]:
            nonlocal proceeded
            if proceeded:
                raise UsageError("proceed was called before, and a handler runs only once")
            proceeded = True
            return step(call, index + 1)

        return hooks[index](call, proceed)

    return Handler(
        handler.name,
        surrounded,
        timeout=handler.timeout,
        run_to_completion=handler.run_to_completion,
        credit_timeout=handler.credit_timeout,
        streams=handler.streams,
    )


def as_coroutine(handler: Handler) -> Callable[[Call], Awaitable[Any]]:
    """Return a coroutine function that does what the engine does with a handler of its kind."""
    function: Callable[[Call], Any] = handler.function

    async def run(call: Call) -> Any:
        if handler.in_thread:
            return await run_in_thread(call, function)
        if handler.streams:
            return await call._drive(function(call))
        result = function(call)
        return await result if inspect.isawaitable(result) else result

    return run


async def run_in_thread(call: Call, function: Callable[[Call], Any]) -> Any:
    """Run a function in a thread of the server, and stay until that has ended, even if cancelled."""
    ended, withdraw = call._submit(function)
    cancelled: asyncio.CancelledError | None = None
    while not ended.done():
        try:
            await asyncio.shield(ended)
        except asyncio.CancelledError as error:
            cancelled = error
            if withdraw():
                break
        except BaseException:
            # It is the function's own, and raised below.
            break
    if cancelled is not None:
        raise cancelled
    return ended.result()
