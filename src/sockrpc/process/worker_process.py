"""The process of one worker, as its supervisor sees it: started, sent orders, and heard."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import socket as socket_module
from collections.abc import Iterator, Sequence
from typing import Literal

from sockrpc.process.importer import WORKER_NAME, AppError
from sockrpc.process.signals import interrupts_blocked
from sockrpc.process.worker import Failed, Order, Ready, WantsToStop, WorkerConfig, serve_as_worker

__all__ = ["SPAWN", "WorkerProcess"]

SPAWN = multiprocessing.get_context("spawn")


class WorkerProcess:
    """The process of a worker, as its supervisor sees it."""

    def __init__(self, slot: int, config: WorkerConfig, sockets: Sequence[socket_module.socket]) -> None:
        self.slot = slot
        self.state: Literal["starting", "serving", "leaving"] = "starting"
        self.since = 0.0
        self.error: Exception | None = None
        self.line, theirs = SPAWN.Pipe()
        self.is_heard = True
        self.process = SPAWN.Process(
            target=serve_as_worker, args=(config, sockets, theirs), name=f"{WORKER_NAME} {slot + 1}"
        )
        try:
            with interrupts_blocked():
                self.process.start()
        except BaseException:
            self.line.close()
            raise
        finally:
            theirs.close()

    def send(self, order: Order) -> None:
        """Send it an order, if it still listens."""
        with contextlib.suppress(OSError):
            self.line.send(order)

    def messages(self) -> Iterator[Ready | Failed | WantsToStop]:
        """The messages that it has sent."""
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
