"""A watchdog that notices a handler which blocks the event loop, and logs its name.

A thread asks the loop for a sign of life a few times a second. While none comes, it looks at what the
loop's thread is doing: only another thread can report a block that never ends.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Watchdog"]

LOG = logging.getLogger("sockrpc.server")

# The number of questions per `blocked_warning`, which determines how exactly a block is measured.
QUESTIONS = 4

# A block of this many times `blocked_warning` is logged before it ends, as it may never end.
STILL_BLOCKED = 3


class Culprit(NamedTuple):
    """The blocking work: its name, its place, and its `id`, as a reference would keep it alive."""

    id: int
    who: str
    where: str
    fields: dict[str, object]


class Watchdog:
    """Watches one loop for one server.

    Args:
        loop: The loop; `start` is called in its thread.
        threshold: `blocked_warning`, in seconds.
        find: Finds the call or notification that runs right now, given the running task.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, threshold: float, find: Callable[[Any], Any]) -> None:
        self._loop = loop
        self._threshold = threshold
        # It looks at objects that the loop's thread may change meanwhile, which only the interpreter's lock
        # prevents. Without the lock a block is identified only by its task and its place.
        self._find = find if has_interpreter_lock() else find_nobody
        self._stopped = threading.Event()
        self._answered = time.monotonic()
        self._is_asked = False
        self._thread: threading.Thread | None = None
        self._watched = 0

    def start(self) -> None:
        """Start watching; a second call does nothing."""
        if self._thread is None:
            self._watched = threading.get_ident()
            self._thread = threading.Thread(target=self._watch, name="sockrpc-watch", daemon=True)
            try:
                self._thread.start()
            except RuntimeError as error:
                # The system cannot start another thread, but the server works without the watchdog.
                LOG.warning("nobody watches for what blocks the event loop: %s", error)

    def stop(self) -> None:
        """Stop watching; the thread ends soon, and holds nothing of the server until then."""
        self._stopped.set()
        self._find = find_nobody

    def _answer(self) -> None:
        self._answered = time.monotonic()
        self._is_asked = False

    def _watch(self) -> None:
        interval = self._threshold / QUESTIONS
        since = before = time.monotonic()
        worked = time.process_time()
        culprit: Culprit | None = None
        is_logged = False
        while not self._stopped.wait(interval):
            now, worked_before, worked = time.monotonic(), worked, time.process_time()
            late = now - before - 2 * interval
            if late > 0:
                # This thread did not run either. If no thread did, the process was stopped, which is no
                # block.
                since += max(0.0, now - before - (worked - worked_before))
            before = now
            if not self._is_asked:
                if culprit is not None and self._answered - since >= self._threshold:
                    self._log("%s blocked the event loop for %.1f s, at %s", culprit, self._answered - since)
                culprit, is_logged, since = None, False, now
                self._is_asked = True
                try:
                    self._loop.call_soon_threadsafe(self._answer)
                except RuntimeError:
                    # The loop was closed.
                    return
                continue
            found = self._look()
            if found is None or (culprit is not None and found.id != culprit.id):
                # Other work has had its turn, so none blocks the loop by itself so far.
                since, is_logged = now, False
            culprit = found or culprit
            if found is not None and not is_logged and now - since >= STILL_BLOCKED * self._threshold:
                is_logged = True
                self._log("%s blocks the event loop, for %.1f s by now, at %s", found, now - since)

    def _log(self, text: str, culprit: Culprit, seconds: float) -> None:
        LOG.warning(text, culprit.who, seconds, culprit.where, extra=culprit.fields)

    def _look(self) -> Culprit | None:
        """Return the work that runs right now."""
        task = asyncio.current_task(self._loop)
        procedure = self._find(task)
        frame = sys._current_frames().get(self._watched)
        if frame is None or (procedure is None and task is None):
            return None
        code = frame.f_code
        where = f"{Path(code.co_filename).name}:{frame.f_lineno} in {code.co_name}"
        if procedure is not None:
            return Culprit(id(procedure), describe(procedure), where, procedure._log_fields)
        assert task is not None
        name = getattr(task.get_coro(), "__qualname__", "a coroutine")
        return Culprit(id(task), f"task {task.get_name()!r} ({name})", where, {})


def has_interpreter_lock() -> bool:
    """False if threads of Python run in parallel."""
    is_enabled: Callable[[], bool] | None = getattr(sys, "_is_gil_enabled", None)
    return is_enabled is None or is_enabled()


def find_nobody(task: Any) -> None:
    """Return None: without the interpreter's lock, the running work cannot be looked up."""


def describe(procedure: Any) -> str:
    """Describe a call or a notification for people; names come from peers, so they are escaped."""
    peer = procedure.socket.remote_address
    if hasattr(procedure, "method"):
        return f"method {procedure.method!r} (call {procedure.id} of {peer!r})"
    return f"the handler of event {procedure.event!r} of {peer!r}"
