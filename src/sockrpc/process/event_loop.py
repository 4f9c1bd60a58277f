"""The event loop of a whole process: made, run and left so that nothing can keep the process.

And the cyclic garbage collector of a process that does nothing but serve.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from sockrpc.errors import UsageError
from sockrpc.process.loop_threads import LoopThreads

__all__ = [
    "LAST_CHANCE",
    "LOOP_KINDS",
    "YOUNG_OBJECTS",
    "collector_for_serving",
    "loop_factory",
    "run_to_end",
]

LOG = logging.getLogger("sockrpc.server")

LOOP_KINDS = ("auto", "uvloop", "asyncio")

# Time that the tasks and threads which the application leaves running at a stop get to end, in seconds.
LAST_CHANCE = 1.0

# So many new objects of which any could be part of a cycle are worth a look. A suspended call is about ten:
# Python's own 700 (2,000 since 3.13) make a few hundred calls in flight look like garbage all the time.
YOUNG_OBJECTS = 10_000

# Python 3.12 itself begins with some hundred frozen objects; more were frozen by the process.
FROZEN_BY_PYTHON = 1000


def loop_factory(kind: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return a function that makes a loop of the wanted kind.

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
    threads = LoopThreads()
    event_loop.set_default_executor(threads)

    async def whole() -> None:
        try:
            await main()
        finally:
            await finish(event_loop, threads)

    try:
        asyncio.set_event_loop(event_loop)
        event_loop.run_until_complete(whole())
    finally:
        asyncio.set_event_loop(None)
        event_loop.close()


async def finish(event_loop: asyncio.AbstractEventLoop, threads: LoopThreads) -> None:
    """End what the application left running; neither a task nor a thread that goes on can keep the process.

    That is why this is not `asyncio.run`, which waits for such a task for ever, and for such a thread.
    """
    deadline = event_loop.time() + LAST_CHANCE
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
    await until_ended(event_loop, threads, deadline - event_loop.time())
    behind = threads.unfinished()
    if behind:
        LOG.warning(
            "%d functions that run in threads of the event loop are left behind: %s",
            len(behind),
            ", ".join(behind.values()),
        )


async def until_ended(event_loop: asyncio.AbstractEventLoop, threads: LoopThreads, seconds: float) -> None:
    """Wait until nothing runs in a thread of the loop any more; what has not begun never does."""
    something_ended = asyncio.Event()

    def ended(_: object) -> None:
        # It may end after the loop.
        with contextlib.suppress(RuntimeError):
            event_loop.call_soon_threadsafe(something_ended.set)

    for future in threads.unfinished():
        if not future.cancel():
            future.add_done_callback(ended)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(seconds, 0.0)):
            while threads.unfinished():
                await something_ended.wait()
                something_ended.clear()


@contextlib.contextmanager
def collector_for_serving() -> Iterator[None]:
    """Until the end of the block, look for garbage less often, and not among what is there already.

    What the process has set itself is left alone: a higher threshold, a collector that is off, and what is
    frozen already, as there is no way to unfreeze only the rest.
    """
    threshold, *others = gc.get_threshold()
    raised = 0 < threshold < YOUNG_OBJECTS
    freezes = gc.isenabled() and gc.get_freeze_count() < FROZEN_BY_PYTHON
    if raised:
        gc.set_threshold(YOUNG_OBJECTS, *others)
    if freezes:
        # Freezing would keep for ever what is garbage now.
        gc.collect()
        gc.freeze()
    try:
        yield
    finally:
        if freezes:
            gc.unfreeze()
        if raised:
            gc.set_threshold(threshold, *others)
