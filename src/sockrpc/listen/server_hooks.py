"""The hooks that run before a server listens and after it has stopped, and work on many objects in turns."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any

from sockrpc.errors import UsageError

__all__ = [
    "UNWINDING",
    "ServerHook",
    "check_hook",
    "hooks_fail_visibly",
    "in_turns",
    "leave_behind",
    "one_turn",
    "run_start_hooks",
    "run_stop_hooks",
]

LOG = logging.getLogger("sockrpc.server")

# Seconds that a cancelled hook gets to unwind.
UNWINDING = 1.0
# Objects to end per turn; each costs about ten microseconds in this iteration and in the next.
ENDED_AT_ONCE = 128
# Seconds after which others get their turn in any case, because some objects cost more.
TURN = 0.001

ServerHook = Callable[[], Awaitable[None] | None]

# A note marks exceptions of hooks: our own errors are logged in one line, a hook's with its traceback.
NOTE = "raised by the on_start hook "


def check_hook(function: object, what: str) -> None:
    """Refuse a function that cannot be such a hook.

    Raises:
        UsageError: It cannot be called without arguments, or is a generator.
    """
    if not callable(function):
        raise UsageError(f"{what} is not callable")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise UsageError(f"{what} is a generator: what comes after its yield is a hook of its own, on_stop")
    try:
        inspect.signature(function, follow_wrapped=False).bind()
    except (ValueError, NameError):
        # Some compiled functions have no signature; Python 3.14 evaluates the names in annotations.
        pass
    except TypeError:
        raise UsageError(f"{what} has to take no argument") from None


async def run_start_hooks(hooks: Sequence[ServerHook]) -> None:
    """Run hooks one after another; the first exception ends the run."""
    for hook in hooks:
        try:
            await run_hook(hook)
        except BaseException as error:
            error.add_note(NOTE + named(hook))
            raise


def came_from_hook(error: BaseException) -> bool:
    """True for an exception that an `on_start` hook raised."""
    return any(note.startswith(NOTE) for note in getattr(error, "__notes__", ()))


@contextlib.contextmanager
def hooks_fail_visibly() -> Iterator[None]:
    """End the process with a traceback if an `on_start` hook raises anything in the block."""
    try:
        yield
    except Exception as error:
        if not came_from_hook(error):
            raise
        # The traceback starts at the hook, because the frames that lead to it do not matter.
        step = error.__traceback__
        while step is not None and step.tb_frame.f_code is not run_hook.__code__:
            step = step.tb_next
        traceback.print_exception(error if step is None else error.with_traceback(step.tb_next))
        sys.exit(1)


async def run_stop_hooks(hooks: Sequence[ServerHook], seconds: float, hurry: asyncio.Event) -> None:
    """Run hooks one after another, the last first; the end of their time cancels the rest.

    Args:
        hooks: In order of registration.
        seconds: The time for all of them together.
        hurry: Ends the time when it is set during the run; an earlier hurry does not count.
    """
    if not hooks:
        return
    hurry.clear()
    running = asyncio.ensure_future(run_each(hooks))
    hurried = asyncio.ensure_future(hurry.wait())
    try:
        waiters: list[asyncio.Future[Any]] = [running, hurried]
        await asyncio.wait(waiters, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            LOG.error("the on_stop hooks have not ended in time; they are cancelled")
            running.cancel()
            await asyncio.wait([running], timeout=UNWINDING)
    finally:
        running.cancel()
        hurried.cancel()


async def run_each(hooks: Sequence[ServerHook]) -> None:
    """Run each hook even if others raise; cancelling this ends the run."""
    task = asyncio.current_task()
    assert task is not None
    for hook in reversed(hooks):
        try:
            await run_hook(hook)
        except BaseException as error:
            if task.cancelling():
                raise
            LOG.error("the on_stop hook %s failed", named(hook), exc_info=error)


async def run_hook(hook: ServerHook) -> None:
    """Run one hook, a plain or a coroutine function."""
    result = hook()
    if inspect.isawaitable(result):
        await result


def named(hook: ServerHook) -> str:
    """Return the name of a hook for log lines."""
    return getattr(hook, "__qualname__", None) or repr(hook)


async def in_turns(objects: Iterable[Any], act: Callable[[Any], object]) -> None:
    """Call `act` for each of very many objects, a few per iteration of the loop."""
    left = iter(list(objects))
    while True:
        if not one_turn(left, act):
            return
        await asyncio.sleep(0)


def one_turn(left: Iterator[Any], act: Callable[[Any], object]) -> bool:
    """Call `act` for a few objects; False if none is left."""
    until = time.monotonic() + TURN
    for done, each in enumerate(left, 1):
        act(each)
        if done == ENDED_AT_ONCE or time.monotonic() >= until:
            return True
    return False


def leave_behind(task: asyncio.Task[Any]) -> None:
    """Cancel a task that has not ended after its first cancel, and log it."""
    LOG.error("%s has not ended after it was cancelled; it is left behind", task.get_coro())
    task.cancel()
