"""The event loop of a whole process: made, run and left so that nothing can keep the process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from sockrpc.errors import UsageError

__all__ = ["LAST_CHANCE", "LOOP_KINDS", "loop_factory", "run_to_end"]

LOOP_KINDS = ("auto", "uvloop", "asyncio")

# What is left behind after a stop (tasks that ignore their cancel) gets this long, in seconds.
LAST_CHANCE = 1.0


def loop_factory(kind: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes a loop of the wanted kind.

    Raises:
        UsageError: There is no such kind, or it is not installed.
    """
    if kind not in LOOP_KINDS:
        raise UsageError(f"loop is 'auto', 'uvloop' or 'asyncio', not {kind!r}")
    if kind != "asyncio":
        try:
            import uvloop
        except ImportError:
            if kind == "uvloop":
                raise UsageError("uvloop is not installed") from None
        else:
            return uvloop.new_event_loop
    return asyncio.new_event_loop


def run_to_end(
    make_loop: Callable[[], asyncio.AbstractEventLoop], main: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """Run the coroutine that `main` makes on a loop of its own, and end what it left running."""
    event_loop = make_loop()
    try:
        asyncio.set_event_loop(event_loop)
        event_loop.run_until_complete(main())
        event_loop.run_until_complete(finish(event_loop))
    finally:
        asyncio.set_event_loop(None)
        event_loop.close()


async def finish(event_loop: asyncio.AbstractEventLoop) -> None:
    """End what the application left running; a task that ignores its cancel can not keep the process.

    That is why this is not `asyncio.run`, which waits for such a task for ever.
    """
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=LAST_CHANCE)
    for task in left:
        if task.done() and not task.cancelled() and task.exception() is not None:
            event_loop.call_exception_handler(
                {"message": "unhandled exception while stopping", "exception": task.exception(), "task": task}
            )
    await event_loop.shutdown_asyncgens()
