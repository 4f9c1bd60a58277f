"""The deadline that calls inherit: that of a block around them, or of the call whose handler makes them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple

from sockrpc.limits import check_seconds

if TYPE_CHECKING:
    from sockrpc.peer.call import Call

__all__ = ["CURRENT", "deadline", "inherited_deadline", "timeout"]


class Until(NamedTuple):
    """A deadline of a block, and what that stands in."""

    when: float  # loop time
    around: Call | Until | None


# A block within a handler outlives the handler's call where a task of it goes on.
CURRENT: ContextVar[Call | Until | None] = ContextVar("sockrpc_deadline", default=None)


def inherited_deadline() -> float | None:
    """Return the loop time until which a call that is made here may take; None if there is no limit."""
    current = CURRENT.get()
    when = None
    while isinstance(current, Until):
        when = earlier(when, current.when)
        current = current.around
    if current is not None and current._is_running:
        when = earlier(when, current.deadline)
    return when


def earlier(when: float | None, other: float | None) -> float | None:
    """Return the earlier of two deadlines."""
    if when is None or other is None:
        return other if when is None else when
    return min(when, other)


@contextlib.contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Bound the calls that are made inside by one deadline, and nothing else between them.

    Blocks nest: the earlier deadline wins. None lets the calls inside outlive every deadline around them,
    that of the handler's own call included.

    Args:
        seconds: From now on.

    Raises:
        UsageError: It is no number of seconds.
    """
    block = None
    if seconds is not None:
        check_seconds("deadline", seconds, zero=True)
        block = Until(asyncio.get_running_loop().time() + seconds, CURRENT.get())
    token = CURRENT.set(block)
    try:
        yield
    finally:
        CURRENT.reset(token)


@contextlib.asynccontextmanager
async def timeout(seconds: float | None) -> AsyncIterator[None]:
    """Do what `asyncio.timeout` does, with a deadline that travels with every call inside.

    Args:
        seconds: From now on; None for no limit of its own.

    Raises:
        TimeoutError: The time is over.
        UsageError: It is no number of seconds.
    """
    if seconds is None:
        yield
        return
    with deadline(seconds):
        async with asyncio.timeout(seconds):
            yield
