"""What an application runs before a server listens and when it has stopped; how very many things end."""

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

# What a hook that is cancelled gets to unwind, in seconds.
UNWINDING = 1.0
# Each costs some ten microseconds in this iteration of the loop and in the next.
ENDED_AT_ONCE = 128
# Some cost more than others: after so many seconds others have their turn in any case.
TURN = 0.001

ServerHook = Callable[[], Awaitable[None] | None]

# The note on what a hook has raised. Errors of ours are told in one line; such a one deserves its traceback.
NOTE = "raised by the on_start hook "


def check_hook(function: object, what: str) -> None:
    """Refuse what cannot be such a hook.

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
        # Some compiled functions do not tell; Python 3.14 looks up what the annotations name.
        pass
    except TypeError:
        raise UsageError(f"{what} has to take no argument") from None


async def run_start_hooks(hooks: Sequence[ServerHook]) -> None:
    """Run hooks one after another; the first that raises ends it."""
    for hook in hooks:
        try:
            await run_hook(hook)
        except BaseException as error:
            error.add_note(NOTE + named(hook))
            raise


def came_from_hook(error: BaseException) -> bool:
    """True for what an `on_start` hook has raised."""
    return any(note.startswith(NOTE) for note in getattr(error, "__notes__", ()))


@contextlib.contextmanager
def hooks_fail_visibly() -> Iterator[None]:
    """What an `on_start` hook has raised in the block ends the process with its traceback, whatever it is."""
    try:
        yield
    except Exception as error:
        if not came_from_hook(error):
            raise
        # From the hook on; how it was come to is of no interest.
        step = error.__traceback__
        while step is not None and step.tb_frame.f_code is not run_hook.__code__:
            step = step.tb_next
        traceback.print_exception(error if step is None else error.with_traceback(step.tb_next))
        sys.exit(1)


async def run_stop_hooks(hooks: Sequence[ServerHook], seconds: float, hurry: asyncio.Event) -> None:
    """Run hooks one after another, the last first; what is not over in time is cancelled and left behind.

    Args:
        hooks: In order of registration.
        seconds: How long all of them may take.
        hurry: Ends their time if it is set from now on. Whoever was in a hurry before waited for others.
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
    """Run them whatever they raise. Cancelling it ends it."""
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
    """Run one, plain or coroutine."""
    result = hook()
    if inspect.isawaitable(result):
        await result


def named(hook: ServerHook) -> str:
    """A hook for people."""
    return getattr(hook, "__qualname__", None) or repr(hook)


async def in_turns(objects: Iterable[Any], act: Callable[[Any], object]) -> None:
    """Do it for each of very many, some in each iteration of the loop."""
    left = iter(list(objects))
    while True:
        if not one_turn(left, act):
            return
        await asyncio.sleep(0)


def one_turn(left: Iterator[Any], act: Callable[[Any], object]) -> bool:
    """Do it for some of very many; False if none is left."""
    until = time.monotonic() + TURN
    for done, each in enumerate(left, 1):
        act(each)
        if done == ENDED_AT_ONCE or time.monotonic() >= until:
            return True
    return False


def leave_behind(task: asyncio.Task[Any]) -> None:
    """Cancel once more what has not ended by its first cancel, and say so."""
    LOG.error("%s has not ended after it was cancelled; it is left behind", task.get_coro())
    task.cancel()
