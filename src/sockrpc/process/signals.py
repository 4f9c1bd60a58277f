"""The signals of a process that serves, or of one that supervises workers: what is done at each, and by whom.

SIGINT and SIGTERM stop: the first gracefully, the second at once, and the third ends the process. With
workers the supervisor receives them; SIGTERM to a worker asks the supervisor for a successor, SIGINT is left
to the supervisor, and SIGHUP to the supervisor replaces all workers. At the end the handlers of the program
are what they were.

run.py (`Running`) and supervisor.py decide what a signal does; this file receives and restores.
"""

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

__all__ = [
    "LAST_SIGNAL",
    "REPLACING",
    "check_main_thread",
    "end_by",
    "interrupts_blocked",
    "kill_this_process",
    "leave_interrupts_to_the_supervisor",
    "on_signals",
    "on_sigterm",
    "signals_given_back",
    "supervisor_signals",
]

STOPPING = (signal.SIGINT, signal.SIGTERM)

# Replaces all workers; None on Windows.
REPLACING: int | None = getattr(signal, "SIGHUP", None)

# Windows ends a process by any signal but those of its console.
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)

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
            # A handler may have been installed below Python's, or none of Python's at all.
            set_system_handler(number, below)
        # A loop that has ended has put back what it found; and the program may have closed its own.
        signal.set_wakeup_fd(-1)
        if self._descriptor != -1:
            with contextlib.suppress(OSError, ValueError):
                signal.set_wakeup_fd(self._descriptor, warn_on_full_buffer=False)


# Given back to a forked child, as long as we have the signals.
held: list[Before] = []


def give_back_to_child() -> None:
    """A forked child ends by its own signals, and does not pass them to the loop of its parent."""
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
            # Loops of Windows cannot watch signals; the handler runs in the main thread and wakes the loop.
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


def end_by(number: int) -> None:
    """End the process by this signal, as if nobody handled it."""
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


def kill_this_process() -> None:
    """End the process at once, whatever it does."""
    os.kill(os.getpid(), KILL)


# A supervisor and its workers


@contextlib.contextmanager
def supervisor_signals(receive: Callable[[int], None]) -> Iterator[None]:
    """Until the end of the block, call `receive` with each signal; there is no event loop here."""
    numbers: list[int] = [*STOPPING]
    if REPLACING is not None and not os.isatty(0) and signal.getsignal(REPLACING) != signal.SIG_IGN:
        # On a terminal it says that the terminal is gone.
        numbers.append(REPLACING)
    with signals_given_back(numbers):
        for number in numbers:
            signal.signal(number, lambda number, _: receive(number))
        yield


@contextlib.contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C, so that a Python that is just starting does not get it; workers unblock it."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_interrupts_to_the_supervisor() -> None:
    """Ignore Ctrl-C, which a terminal sends to every process of the group: only the supervisor acts on it."""
    # Programs that the application starts would inherit SIG_IGN.
    signal.signal(signal.SIGINT, lambda *_: None)
    if sys.platform != "win32":
        # Blocked by the supervisor until here.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def on_sigterm(first: Callable[[], None], second: Callable[[], None]) -> None:
    """In a worker, call `first` in the running loop at a SIGTERM and `second` at the next.

    The third ends the process. Windows knows no SIGTERM but the end of the process.
    """
    if sys.platform == "win32":
        return
    received = 0

    def count() -> None:
        nonlocal received
        received += 1
        if received == 1:
            first()
        else:
            second()

    on_signals(count, (signal.SIGTERM,))
