"""Event loops whose time stands still until the test moves it: no timer fires by itself."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import Any


class Clock:
    """Mixed into an event loop in front of its own class."""

    now = 1000.0
    scheduled = 0

    def __init__(self) -> None:
        super().__init__()
        self._timers: list[asyncio.TimerHandle] = []

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        # Counted, so that the test can see that nothing is left to happen.
        self.scheduled += 1
        base: Any = super()
        return base.call_soon(callback, *args, context=context)

    def time(self) -> float:
        return self.now

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        loop: Any = self
        handle = asyncio.TimerHandle(when, callback, list(args), loop, context)
        heapq.heappush(self._timers, handle)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def advance(self, seconds: float) -> None:
        """Let time pass; what is due runs in the next iteration, in its order."""
        loop: Any = self
        self.now += seconds
        while self._timers and self._timers[0].when() <= self.now:
            handle = heapq.heappop(self._timers)
            # Not the callback itself: it may be cancelled until its turn comes.
            loop.call_soon(fire, handle)

    @property
    def live_timers(self) -> list[asyncio.TimerHandle]:
        """The timers that were neither cancelled nor fired."""
        return [handle for handle in self._timers if not handle.cancelled()]


def fire(handle: asyncio.TimerHandle) -> None:
    if not handle.cancelled():
        handle._run()


def new_still_loop(kind: str) -> Any:
    """An event loop of the wanted kind with a clock of the test's."""
    if kind == "uvloop":
        import uvloop

        class StillUvloop(Clock, uvloop.Loop):  # type: ignore[misc]
            pass

        return StillUvloop()

    class StillLoop(Clock, asyncio.SelectorEventLoop):  # type: ignore[misc]
        pass

    return StillLoop()
