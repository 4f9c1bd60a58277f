"""Checks that objects are used only in their event loop, and calls into it from other threads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections.abc import Callable

from sockrpc.errors import UsageError

__all__ = ["belongs", "call_there", "check_here", "is_here"]

# Loops that serve in this process, and in one that this was forked from.
ours: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
inherited: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


def forked() -> None:
    """Forget all loops: those that served before the fork go on only in the parent."""
    for loop in list(ours):
        inherited.add(loop)
    ours.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forked)


def belongs(loop: asyncio.AbstractEventLoop) -> None:
    """Note that the loop serves in this process."""
    ours.add(loop)


def is_here(loop: asyncio.AbstractEventLoop) -> bool:
    """True if that loop runs in this thread.

    Raises:
        UsageError: It runs in the process that this was forked from.
    """
    try:
        if asyncio.get_running_loop() is loop:
            return True
    except RuntimeError:
        # No loop runs in this thread.
        pass
    if loop in inherited:
        raise UsageError(
            "this process was forked from the one that serves, whose connections are not its own"
        )
    return False


def check_here(loop: asyncio.AbstractEventLoop, what: str) -> None:
    """Check that an object of that loop is used in it.

    Raises:
        UsageError: It is used elsewhere.
    """
    if not is_here(loop):
        raise UsageError(
            f"{what} belongs to another event loop than the one that runs here; "
            "asyncio.run_coroutine_threadsafe(coroutine, loop) runs a coroutine there"
        )


def call_there(loop: asyncio.AbstractEventLoop, act: Callable[[], object]) -> None:
    """Call `act` in that loop: now if it runs in this thread, else soon, in the order of the calls.

    A loop that has not started yet calls it once it does. A closed loop has nothing left to act on, so the
    call is dropped.

    Raises:
        UsageError: It runs in the process that this was forked from.
    """
    if is_here(loop):
        act()
        return
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(act)
