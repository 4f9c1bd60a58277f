"""The worker: a process that serves the same app as others, and that a supervisor starts, stops and replaces.

Between the two is one line. The supervisor sends "leave" (a successor goes on with the sockets), "stop"
(all stop) and "hurry"; its end of the line goes with it, and that is a "stop" too. The worker sends `Ready`,
`Failed`, and `WantsToStop` at a SIGTERM: the supervisor knows whether all stop, or whether the worker needs a
successor first.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import socket as socket_module
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, Literal

from sockrpc.errors import SockRPCError, UsageError
from sockrpc.listen.notes import notes_of
from sockrpc.listen.server_hooks import hooks_fail_visibly
from sockrpc.process.event_loop import collector_for_serving, loop_factory, run_to_end
from sockrpc.process.importer import AppError, load_app
from sockrpc.process.signals import kill_this_process, leave_interrupts_to_the_supervisor, on_sigterm
from sockrpc.server import Server, serve

__all__ = ["Failed", "Order", "Ready", "WantsToStop", "WorkerConfig", "serve_as_worker"]

LOG = logging.getLogger("sockrpc.workers")

Order = Literal["leave", "stop", "hurry"]


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerConfig:
    """The configuration that all workers of one server share; it reaches them by pickle.

    Attributes:
        app: MODULE:APP.
        options: The options of `serve` but those that say where to listen.
        loop: The kind of event loop.
        queue_is_ours: Nobody but the workers and their supervisor holds the sockets.
        on_started: Called with the server when it listens.
        prepare: Called before anything else, to set up logging and the like.
        patience: A worker that takes longer to stop, in seconds, is killed; its loop must be blocked.
    """

    app: str
    options: dict[str, Any]
    loop: str
    queue_is_ours: bool
    on_started: Callable[[Server], None] | None
    prepare: Callable[[], None] | None
    patience: float


@dataclasses.dataclass(frozen=True, slots=True)
class Ready:
    """The worker serves, on these addresses."""

    addresses: list[Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Failed:
    """The worker ends, for a reason that needs no traceback of ours."""

    kind: type[SockRPCError]
    errno: int | None
    text: str

    def error(self) -> Exception:
        """Return the error that `run` raises."""
        return self.kind(self.text) if self.errno is None else OSError(self.errno, self.text)


@dataclasses.dataclass(frozen=True, slots=True)
class WantsToStop:
    """The worker has received SIGTERM."""


def serve_as_worker(config: WorkerConfig, sockets: Sequence[socket_module.socket], line: Connection) -> None:
    """Serve until the supervisor says otherwise, or is gone. This is all that the process does."""
    leave_interrupts_to_the_supervisor()
    for each in sockets:
        # Programs that we start are to hold neither the port nor its queue.
        os.set_inheritable(each.fileno(), False)
    try:
        if config.prepare is not None:
            config.prepare()
        starting = serve(load_app(config.app), sock=sockets, **config.options)
        with hooks_fail_visibly():
            run_to_end(loop_factory(config.loop), lambda: serve_until_ordered(starting, config, line))
    except (OSError, SockRPCError) as error:
        number, text = (error.errno, error.strerror) if isinstance(error, OSError) else (None, None)
        # Errors with arguments of their own are but a text there.
        kind = next((each for each in (UsageError, AppError) if isinstance(error, each)), SockRPCError)
        send(line, Failed(kind, number, (text or str(error)) + notes_of(error)))
        sys.exit(1)


async def serve_until_ordered(starting: serve, config: WorkerConfig, line: Connection) -> None:
    """Serve until the supervisor says otherwise."""
    async with starting as server:
        loop = asyncio.get_running_loop()

        def obey(order: Order) -> None:
            if order == "hurry":
                server.hurry()
            elif order == "leave":
                server._close("theirs")
            else:
                server._close("ours" if config.queue_is_ours else None)

        def receive(order: Order) -> None:
            # The loop may have ended meanwhile.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(obey, order)

        on_sigterm(lambda: send(line, WantsToStop()), server.hurry)
        with collector_for_serving():
            # A thread follows the line, as the loop of Windows cannot watch it.
            threading.Thread(target=follow, args=(line, receive, config.patience), daemon=True).start()
            if config.on_started is not None:
                config.on_started(server)
            send(line, Ready([each.getsockname() for each in server.sockets]))
            await server.wait_closed()


def follow(line: Connection, receive: Callable[[Order], None], patience: float) -> None:
    """Forward the supervisor's orders; EOF means that it died.

    Nobody else is left then to kill a worker that does not stop, and that holds the port.
    """
    try:
        while True:
            receive(line.recv())
    except (EOFError, OSError):
        receive("stop")
    time.sleep(patience)
    LOG.error("this worker has not stopped, and its supervisor is gone; it kills itself")
    kill_this_process()


def send(line: Connection, message: Ready | Failed | WantsToStop) -> None:
    """Send a message to the supervisor, if there still is one."""
    with contextlib.suppress(OSError):
        line.send(message)
