"""The signals that stop a server: received in its loop, and given back to the program at the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sockrpc.errors import UsageError
from sockrpc.process.system_signals import end_process_at, set_system_handler, system_handler

__all__ = ["LAST_SIGNAL", "STOPPING", "check_main_thread", "on_signals", "signals_given_back"]

STOPPING = (signal.SIGINT, signal.SIGTERM)

# The first stops gracefully, the second at once. A handler that never returns lets the loop do neither,
# and then it is this one that ends the process.
LAST_SIGNAL = 3


class Before:
    """The handlers of the program, and the descriptor that its signals are written to."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._handlers = [(each, signal.getsignal(each), system_handler(each)) for each in numbers]
        self._descriptor = signal.set_wakeup_fd(-1)

    def restore(self) -> None:
        """Put them back."""
        for number, handler, below in self._handlers:
            if handler is not None:
                signal.signal(number, handler)
            # Where something else was installed below Python's, or nothing of Python's at all.
            set_system_handler(number, below)
        # A loop that has ended has put back what it found; and the program may have closed its own.
        signal.set_wakeup_fd(-1)
        if self._descriptor != -1:
            with contextlib.suppress(OSError, ValueError):
                signal.set_wakeup_fd(self._descriptor, warn_on_full_buffer=False)


# What a fork gives back to the child, as long as we have its signals.
held: list[Before] = []


def give_back_to_child() -> None:
    """A forked child ends by its own signals, and tells the loop of its parent nothing of them."""
    while held:
        held.pop().restore()
    signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: give_back_to_child() if held else None)


def check_main_thread() -> None:
    """Check that this is where signals can be received.

    Raises:
        UsageError: It is not.
    """
    if threading.current_thread() is not threading.main_thread():
        raise UsageError(
            "run can be called in the main thread only, as only that receives signals; "
            "in another thread, use serve in an event loop"
        )


@contextlib.contextmanager
def signals_given_back(numbers: Sequence[int] = STOPPING) -> Iterator[None]:
    """At the end of the block the handlers of these signals are what they were before."""
    before = Before(numbers)
    held.append(before)
    try:
        yield
    finally:
        # A forked child has them back already.
        if before in held:
            held.remove(before)
            before.restore()


def on_signals(callback: Callable[[], None], numbers: Sequence[int] = STOPPING) -> None:
    """Call `callback` in the running loop at each of these signals, within `signals_given_back`.

    The third of them ends the process as if nobody handled it, whatever the main thread does.
    """
    loop = asyncio.get_running_loop()
    for number in numbers:
        if sys.platform == "win32":
            # Its loops can not watch signals; the handler runs in the main thread and wakes the loop.
            signal.signal(number, lambda *_: soon(loop, callback))
        else:
            loop.add_signal_handler(number, callback)
    end_process_at(LAST_SIGNAL, tuple(numbers))
    if sys.platform != "win32":
        for number in numbers:
            # As the loop had it: what waits in the system goes on after a signal.
            signal.siginterrupt(number, False)


def soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> Any:
    """Call it in the loop, if the loop has not ended."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback)
