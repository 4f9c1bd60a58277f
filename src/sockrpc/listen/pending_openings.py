"""The connections of one server that were accepted and are not open yet."""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sockrpc.listen.admission import Admission

__all__ = ["PendingOpenings"]

# Seconds per iteration of the loop for answering opening requests: each takes some tenths of a millisecond,
# and hundreds may come at once.
OPENING_SHARE = 0.003


class PendingOpenings:
    """The connections of one server that were accepted and are not open yet.

    Nothing else keeps track of those in their TLS handshake: if it fails, no callback runs, and the objects
    made for them just go, on some versions of asyncio only by the garbage collector.
    """

    def __init__(self) -> None:
        self.closed = False
        # Openings whose request waits for a later iteration; `_until` ends the time for answers in this one.
        self._postponed: deque[Admission] = deque()
        self._until: float | None = None
        self._left: dict[weakref.ref[Admission], float] = {}
        self._waiter: asyncio.Future[None] | None = None

    def add(self, opening: Admission) -> None:
        """Add an accepted connection."""
        self._left[weakref.ref(opening, self._gone)] = time.monotonic()

    def discard(self, opening: Admission) -> None:
        """Remove a connection that was admitted, refused or lost, before the garbage collector would."""
        self._gone(weakref.ref(opening))

    def _gone(self, opening: weakref.ref[Admission]) -> None:
        self._left.pop(opening, None)
        if not self._left and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def has_time(self) -> bool:
        """False once requests have used their share of this iteration."""
        if self._until is None:
            # At least one request per iteration is answered.
            self._until = time.monotonic() + OPENING_SHARE
            asyncio.get_running_loop().call_soon(self._next_iteration)
            return True
        return time.monotonic() < self._until

    def postpone(self, opening: Admission) -> None:
        """Continue an opening in a later iteration."""
        self._postponed.append(opening)

    def _next_iteration(self) -> None:
        self._until = None
        while self._postponed and self.has_time():
            self._postponed.popleft().go_on()

    async def wait(self, last: asyncio.Task[None] | None, seconds: float) -> None:
        """Wait until all have opened or failed; later arrivals are refused.

        Args:
            last: The task that ends the accepting; None if it has ended.
            seconds: The time that one may take, counted from when it was accepted.
        """
        try:
            if last is not None:
                await asyncio.wait([last])
            # asyncio makes a task for an accepted connection, which makes its protocol in the next turn.
            for _ in range(2):
                await asyncio.sleep(0)
            if self._left:
                self._waiter = asyncio.get_running_loop().create_future()
                with contextlib.suppress(TimeoutError):
                    left = max(self._left.values()) + seconds - time.monotonic()
                    await asyncio.wait_for(self._waiter, max(left, 0))
        finally:
            self.closed = True
