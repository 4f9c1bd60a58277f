"""Keeps several workers serving one app: starts, watches, replaces and stops them.

A plain process without an event loop, which holds the sockets and serves nobody, so that it has little
to die of. Workers are spawned, never forked: each imports the app anew.
"""

from __future__ import annotations

import logging
import multiprocessing.connection
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing import resource_tracker
from typing import Any

from sockrpc.errors import SockRPCError
from sockrpc.listen.systemd import notify_systemd
from sockrpc.listen.worker_sockets import WorkerSockets
from sockrpc.process.signals import LAST_SIGNAL, REPLACING, end_by, supervisor_signals
from sockrpc.process.worker import Failed, Ready, WantsToStop, WorkerConfig
from sockrpc.process.worker_process import SPAWN, WorkerProcess

__all__ = ["EXTRA_PATIENCE", "Supervisor"]

LOG = logging.getLogger("sockrpc.workers")

# A worker that has served for this long, in seconds, does not die "again and again".
STEADY = 10.0

# How long the next start waits after quick deaths, in seconds: 0, 1, 2, 4, ..., at most the last.
LONGEST_PAUSE = 30.0

# Time beyond its own graces before a worker is killed, in seconds; its loop must be blocked.
EXTRA_PATIENCE = 5.0

# Windows does not interrupt a wait for every signal.
LONGEST_WAIT = 0.5 if sys.platform == "win32" else None


class Supervisor:
    """The supervisor of all workers of one server.

    Args:
        config: The configuration of all workers.
        sockets: The sockets that they listen on; the supervisor owns them.
        count: How many they are.
        patience: A worker that takes longer to stop, in seconds, is killed.
        on_listening: Called with the addresses when all workers serve.
    """

    def __init__(
        self,
        config: WorkerConfig,
        sockets: WorkerSockets,
        count: int,
        patience: float,
        on_listening: Callable[[Sequence[Any]], None] | None,
    ) -> None:
        self._config = config
        self._sockets = sockets
        self._count = count
        self._patience = patience
        self._on_listening = on_listening
        # All that run; of these, who serves a slot, and who is to do so next.
        self._workers: list[WorkerProcess] = []
        self._current: dict[int, WorkerProcess] = {}
        self._next: dict[int, WorkerProcess] = {}
        self._to_replace: list[int] = []
        self._quick_deaths = [0] * count
        self._due: dict[int, float] = {}
        self._is_ready = False
        self._stopping = False
        self._deadline: float | None = None
        self._error: Exception | None = None
        self._signals: list[int] = []
        # The number of stop signals so far, and the one that ends everything.
        self._stops = 0
        self._last_signal: int | None = None
        self._woken, self._waker = SPAWN.Pipe(duplex=False)

    def run(self) -> None:
        """Keep the workers serving until a signal stops them all.

        Raises:
            OSError: A worker could not be started, or said so itself.
            SockRPCError: A worker failed before it served, or had to be killed at the stop.
        """
        with self._woken, self._waker, supervisor_signals(self._receive_signal):
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
                self._sockets.close()
        if self._last_signal is not None:
            # Like the third signal of a single process.
            end_by(self._last_signal)
        if self._error is not None:
            raise self._error

    # Events

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
                    self._received(worker, message)
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

    def _receive_signal(self, number: int) -> None:
        # Called by the signal handler, between any two steps of the rest.
        self._signals.append(number)
        if len(self._signals) == 1:
            self._waker.send_bytes(b"!")

    def _signalled(self, number: int) -> None:
        if number == REPLACING:
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

    def _received(self, worker: WorkerProcess, message: Ready | Failed | WantsToStop) -> None:
        match message:
            case Failed():
                worker.error = message.error()
            case WantsToStop():
                if self._stopping:
                    worker.send("stop")
                elif self._current.get(worker.slot) is worker and worker.slot not in self._next:
                    self._replace(worker.slot)
            case Ready(addresses=addresses):
                self._serves(worker, addresses)

    def _serves(self, worker: WorkerProcess, addresses: list[Any]) -> None:
        slot = worker.slot
        worker.state = "serving"
        worker.since = time.monotonic()
        LOG.info("%s serves", worker)
        if self._stopping:
            worker.send("stop")
            return
        if self._next.get(slot) is worker:
            old, self._current[slot] = self._current[slot], self._next.pop(slot)
            old.state = "leaving"
            old.send("leave")
            self._replace_next()
        if not self._is_ready and all(each.state == "serving" for each in self._current.values()):
            self._is_ready = True
            LOG.info("listening on %s by %d workers", ", ".join(map(str, addresses)), self._count)
            if self._on_listening is not None:
                self._on_listening(addresses)
            notify_systemd("READY=1")

    def _ended(self, worker: WorkerProcess) -> None:
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

    def _start(self, slot: int) -> WorkerProcess:
        worker = WorkerProcess(slot, self._config, self._sockets.sockets(slot))
        self._workers.append(worker)
        return worker

    def _start_again(self, slot: int) -> None:
        try:
            self._current[slot] = self._start(slot)
        except OSError as error:
            LOG.error("worker %d can not be started: %s", slot + 1, error)
            self._due[slot] = time.monotonic() + self._pause(slot, lived=0.0)

    def _schedule(self, worker: WorkerProcess) -> None:
        slot, now = worker.slot, time.monotonic()
        pause = self._pause(slot, now - worker.since if worker.state == "serving" else 0.0)
        if pause:
            # Clients that connect meanwhile have to reach the others.
            self._sockets.release(slot)
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
            # A worker that has died meanwhile is replaced anyway.
            if slot in self._current:
                self._replace(slot)

    # Stopping

    def _stop(self) -> None:
        LOG.info("all workers are told to stop; another signal stops them at once")
        self._stopping = True
        self._due.clear()
        self._deadline = time.monotonic() + self._patience
        notify_systemd("STOPPING=1")
        self._sockets.remove_socket_file()
        for worker in self._workers:
            if worker.state == "starting":
                worker.process.terminate()
            else:
                worker.send("stop")
        # Theirs alone from here on, so that closing it is the end of it.
        self._sockets.close()

    def _hurry(self) -> None:
        self._deadline = min(self._deadline or 0.0, time.monotonic() + EXTRA_PATIENCE)
        for worker in self._workers:
            if worker.state == "starting":
                worker.process.kill()
            else:
                worker.send("hurry")

    def _kill_all(self) -> None:
        self._deadline = None
        for worker in self._workers:
            LOG.error("%s has not stopped; it is killed", worker)
            self._error = self._error or SockRPCError("a worker that did not stop was killed")
            worker.process.kill()
