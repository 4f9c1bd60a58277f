"""Keeps several workers serving one app: starts, watches, replaces and stops them.

A plain process without an event loop, which holds the sockets and serves nobody, so that it has little
to die of. Workers are spawned, never forked: each imports the app anew.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket as socket_module
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from typing import Any, Literal

from sockrpc.errors import SockRPCError
from sockrpc.listen.systemd import notify_systemd
from sockrpc.listen.worker_sockets import Ground
from sockrpc.process.importer import WORKER_NAME, AppError
from sockrpc.process.signals import LAST_SIGNAL, STOPPING, signals_given_back
from sockrpc.process.worker import Asks, Failed, Order, Serving, Work, serve_as_worker

__all__ = ["EXTRA_PATIENCE", "Supervisor"]

LOG = logging.getLogger("sockrpc.workers")

# A worker that has served for this long, in seconds, does not die "again and again".
STEADY = 10.0

# How long the next start waits after quick deaths, in seconds: 0, 1, 2, 4, ..., at most the last.
LONGEST_PAUSE = 30.0

# What a worker gets beyond its own graces before it is killed, in seconds; its loop must be blocked.
EXTRA_PATIENCE = 5.0

# Windows does not interrupt a wait for every signal.
LONGEST_WAIT = 0.5 if sys.platform == "win32" else None

SPAWN = multiprocessing.get_context("spawn")


class Worker:
    """One process, as its supervisor sees it."""

    def __init__(self, slot: int, work: Work, sockets: Sequence[socket_module.socket]) -> None:
        self.slot = slot
        self.state: Literal["starting", "serving", "leaving"] = "starting"
        self.since = 0.0
        self.error: Exception | None = None
        self.line, theirs = SPAWN.Pipe()
        self.is_heard = True
        self.process = SPAWN.Process(
            target=serve_as_worker, args=(work, sockets, theirs), name=f"{WORKER_NAME} {slot + 1}"
        )
        try:
            with interrupts_blocked():
                self.process.start()
        except BaseException:
            self.line.close()
            raise
        finally:
            theirs.close()

    def say(self, order: Order) -> None:
        """Tell it what to do, if it still listens."""
        with contextlib.suppress(OSError):
            self.line.send(order)

    def messages(self) -> Iterator[Serving | Failed | Asks]:
        """What it has said."""
        try:
            while self.is_heard and self.line.poll():
                yield self.line.recv()
        except (EOFError, OSError):
            self.is_heard = False

    def ending(self) -> str:
        """How it has ended."""
        code = self.process.exitcode
        if code is not None and code < 0:
            try:
                return f"was killed by {signal.Signals(-code).name}"
            except ValueError:
                return f"was killed by signal {-code}"
        why = "" if self.error is None else f": {self.error}".partition("\n")[0]
        return f"ended with exit code {code}{why}"

    @property
    def app_error(self) -> AppError | None:
        """Why it could not import the app, if that is why it has ended."""
        return self.error if isinstance(self.error, AppError) else None

    def __str__(self) -> str:
        return f"worker {self.slot + 1} (process {self.process.pid})"


class Supervisor:
    """The supervisor of all workers of one server.

    Args:
        work: What they do.
        ground: What they listen on; the supervisor owns it.
        count: How many they are.
        patience: A worker that takes longer to stop, in seconds, is killed.
        on_listening: Called with the addresses when all workers serve.
    """

    def __init__(
        self,
        work: Work,
        ground: Ground,
        count: int,
        patience: float,
        on_listening: Callable[[Sequence[Any]], None] | None,
    ) -> None:
        self._work = work
        self._ground = ground
        self._count = count
        self._patience = patience
        self._on_listening = on_listening
        # All that run; of these, who serves a slot, and who is to do so next.
        self._workers: list[Worker] = []
        self._current: dict[int, Worker] = {}
        self._next: dict[int, Worker] = {}
        self._to_replace: list[int] = []
        self._quick_deaths = [0] * count
        self._due: dict[int, float] = {}
        self._is_ready = False
        self._stopping = False
        self._deadline: float | None = None
        self._error: Exception | None = None
        self._signals: list[int] = []
        # How often all were told to stop, and the signal that was the last that there can be.
        self._stops = 0
        self._last_signal: int | None = None
        self._woken, self._waker = SPAWN.Pipe(duplex=False)

    def run(self) -> None:
        """Keep the workers serving until a signal stops them all.

        Raises:
            OSError: A worker could not be started, or said so itself.
            SockRPCError: A worker failed before it served, or had to be killed at the stop.
        """
        with self._woken, self._waker, self._receiving_signals():
            try:
                if sys.platform != "win32":
                    # It would unblock SIGINT in the middle of the first start.
                    resource_tracker.ensure_running()
                for slot in range(self._count):
                    self._current[slot] = self._start(slot)
                while self._workers or self._due:
                    self._turn()
            finally:
                for worker in self._workers:
                    worker.process.kill()
                    worker.process.join()
                    worker.line.close()
                self._ground.close()
        if self._last_signal is not None:
            # As if nobody handled it, like the third signal of a single process.
            signal.signal(self._last_signal, signal.SIG_DFL)
            signal.raise_signal(self._last_signal)
        if self._error is not None:
            raise self._error

    # What happens

    def _turn(self) -> None:
        watched: list[Any] = [self._woken]
        for worker in self._workers:
            watched.append(worker.process.sentinel)
            if worker.is_heard:
                watched.append(worker.line)
        happened = multiprocessing.connection.wait(watched, self._until_next())
        if self._woken in happened:
            self._woken.recv_bytes()
            received, self._signals = self._signals, []
            for number in received:
                self._signalled(number)
        for worker in list(self._workers):
            has_ended = worker.process.sentinel in happened
            if has_ended or worker.line in happened:
                for message in worker.messages():
                    self._said(worker, message)
            if has_ended:
                self._ended(worker)
        now = time.monotonic()
        for slot in [slot for slot, due in self._due.items() if due <= now]:
            del self._due[slot]
            self._start_again(slot)
        if self._deadline is not None and now >= self._deadline:
            self._kill_all()

    def _until_next(self) -> float | None:
        times = [*self._due.values(), *([] if self._deadline is None else [self._deadline])]
        if not times:
            return LONGEST_WAIT
        seconds = max(0.0, min(times) - time.monotonic())
        return seconds if LONGEST_WAIT is None else min(seconds, LONGEST_WAIT)

    def _signalled(self, number: int) -> None:
        if number == getattr(signal, "SIGHUP", None):
            if not self._stopping and self._is_ready:
                LOG.info("all workers are replaced, one after the other")
                self._to_replace = list(range(self._count))
                self._replace_next()
            return
        self._stops += 1
        if self._stops >= LAST_SIGNAL:
            self._last_signal = number
            self._kill_all()
        elif self._stopping:
            self._hurry()
        else:
            self._stop()

    def _said(self, worker: Worker, message: Serving | Failed | Asks) -> None:
        match message:
            case Failed():
                worker.error = message.error()
            case Asks():
                if self._stopping:
                    worker.say("stop")
                elif self._current.get(worker.slot) is worker and worker.slot not in self._next:
                    self._replace(worker.slot)
            case Serving(addresses=addresses):
                self._serves(worker, addresses)

    def _serves(self, worker: Worker, addresses: list[Any]) -> None:
        slot = worker.slot
        worker.state = "serving"
        worker.since = time.monotonic()
        LOG.info("%s serves", worker)
        if self._stopping:
            worker.say("stop")
            return
        if self._next.get(slot) is worker:
            old, self._current[slot] = self._current[slot], self._next.pop(slot)
            old.state = "leaving"
            old.say("leave")
            self._replace_next()
        if not self._is_ready and all(each.state == "serving" for each in self._current.values()):
            self._is_ready = True
            LOG.info("listening on %s by %d workers", ", ".join(map(str, addresses)), self._count)
            if self._on_listening is not None:
                self._on_listening(addresses)
            notify_systemd("READY=1")

    def _ended(self, worker: Worker) -> None:
        worker.process.join()
        worker.line.close()
        self._workers.remove(worker)
        slot, code = worker.slot, worker.process.exitcode
        if self._stopping or worker.state == "leaving":
            if code and worker.state != "starting":
                LOG.error("%s %s", worker, worker.ending())
        elif self._next.get(slot) is worker:
            del self._next[slot]
            self._to_replace.clear()
            LOG.error(
                "%s %s before it served; %s goes on",
                worker,
                worker.ending(),
                self._current[slot],
                exc_info=worker.app_error,
            )
        elif slot in self._next:
            LOG.log(logging.ERROR if code else logging.INFO, "%s %s", worker, worker.ending())
            self._current[slot] = self._next.pop(slot)
        else:
            del self._current[slot]
            somebody_serves = any(each.state == "serving" for each in self._current.values())
            if not self._is_ready or (worker.state == "starting" and not somebody_serves):
                who = "it" if worker.state == "starting" else "all"
                text = f"{worker} {worker.ending()} before {who} served"
                self._error = worker.error or SockRPCError(text)
                self._stop()
            else:
                self._schedule(worker)

    # Starting

    def _start(self, slot: int) -> Worker:
        worker = Worker(slot, self._work, self._ground.sockets(slot))
        self._workers.append(worker)
        return worker

    def _start_again(self, slot: int) -> None:
        try:
            self._current[slot] = self._start(slot)
        except OSError as error:
            LOG.error("worker %d can not be started: %s", slot + 1, error)
            self._due[slot] = time.monotonic() + self._pause(slot, lived=0.0)

    def _schedule(self, worker: Worker) -> None:
        slot, now = worker.slot, time.monotonic()
        pause = self._pause(slot, now - worker.since if worker.state == "serving" else 0.0)
        if pause:
            # Who connects meanwhile is to reach the others.
            self._ground.give_up(slot)
        then = f"in {pause:g} s" if pause else "at once"
        level = logging.ERROR if worker.process.exitcode else logging.INFO
        LOG.log(
            level, "%s %s; another is started %s", worker, worker.ending(), then, exc_info=worker.app_error
        )
        self._due[slot] = now + pause

    def _pause(self, slot: int, lived: float) -> float:
        quick = self._quick_deaths[slot] = 0 if lived >= STEADY else self._quick_deaths[slot] + 1
        return 0.0 if quick <= 1 else min(2.0 ** min(quick - 2, 10), LONGEST_PAUSE)

    def _replace(self, slot: int) -> None:
        """Start a successor, who is served by the same sockets; the old one leaves when that serves."""
        try:
            self._next[slot] = self._start(slot)
        except OSError as error:
            self._to_replace.clear()
            LOG.error("%s has no successor: %s", self._current[slot], error)

    def _replace_next(self) -> None:
        while self._to_replace and not self._next:
            slot = self._to_replace.pop(0)
            # One that has died meanwhile is replaced anyway.
            if slot in self._current:
                self._replace(slot)

    # Stopping

    def _stop(self) -> None:
        LOG.info("all workers are told to stop; another signal stops them at once")
        self._stopping = True
        self._due.clear()
        self._deadline = time.monotonic() + self._patience
        notify_systemd("STOPPING=1")
        self._ground.remove_socket_file()
        for worker in self._workers:
            if worker.state == "starting":
                worker.process.terminate()
            else:
                worker.say("stop")
        # Theirs alone from here on, so that closing it is the end of it.
        self._ground.close()

    def _hurry(self) -> None:
        self._deadline = min(self._deadline or 0.0, time.monotonic() + EXTRA_PATIENCE)
        for worker in self._workers:
            if worker.state == "starting":
                worker.process.kill()
            else:
                worker.say("hurry")

    def _kill_all(self) -> None:
        self._deadline = None
        for worker in self._workers:
            LOG.error("%s has not stopped; it is killed", worker)
            self._error = self._error or SockRPCError("a worker that did not stop was killed")
            worker.process.kill()

    @contextlib.contextmanager
    def _receiving_signals(self) -> Iterator[None]:
        def receive(number: int, _: object) -> None:
            self._signals.append(number)
            if len(self._signals) == 1:
                self._waker.send_bytes(b"!")

        numbers = [*STOPPING]
        if sys.platform != "win32" and not os.isatty(0) and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            # On a terminal it says that the terminal is gone.
            numbers.append(signal.SIGHUP)
        with signals_given_back(numbers):
            for number in numbers:
                signal.signal(number, receive)
            yield


@contextlib.contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Ctrl-C finds no Python that has only just begun; workers unblock it when they know better."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
