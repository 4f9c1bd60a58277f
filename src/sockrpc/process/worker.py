"""One of several processes that serve the same app: started, told to stop and replaced by a supervisor.

Between the two is one line. The supervisor says "leave" (a successor goes on with the sockets), "stop"
(all stop) and "hurry"; its end of the line goes with it, and that is a "stop" too. The worker says
`Serving`, `Failed`, and `Asks` when somebody wants it to stop: the supervisor knows whether all stop, or
whether it needs a successor first.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
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
from sockrpc.process.collector import collector_for_serving
from sockrpc.process.event_loop import loop_factory, run_to_end
from sockrpc.process.importer import AppError, load_app
from sockrpc.process.signals import on_signals
from sockrpc.server import Server, serve

__all__ = ["Asks", "Failed", "Order", "Serving", "Work", "serve_as_worker"]

LOG = logging.getLogger("sockrpc.workers")

# Windows ends a process by any signal but those of its console.
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)

Order = Literal["leave", "stop", "hurry"]


@dataclasses.dataclass(frozen=True, slots=True)
class Work:
    """What all workers of one server do; goes to them by pickle.

    Attributes:
        app: MODULE:APP.
        options: What `serve` takes, but where to listen.
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
class Serving:
    """The worker serves, on these addresses."""

    addresses: list[Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Failed:
    """The worker ends, for a reason that needs no traceback of ours."""

    kind: type[SockRPCError]
    errno: int | None
    text: str

    def error(self) -> Exception:
        """The same for whoever started the server."""
        return self.kind(self.text) if self.errno is None else OSError(self.errno, self.text)


@dataclasses.dataclass(frozen=True, slots=True)
class Asks:
    """Somebody wants this worker to stop (SIGTERM)."""


def serve_as_worker(work: Work, sockets: Sequence[socket_module.socket], line: Connection) -> None:
    """Serve until the supervisor says otherwise, or is gone. This is all that the process does."""
    leave_interrupts_to_the_supervisor()
    for each in sockets:
        # Programs that we start are to hold neither the port nor its queue.
        os.set_inheritable(each.fileno(), False)
    try:
        if work.prepare is not None:
            work.prepare()
        starting = serve(load_app(work.app), sock=sockets, **work.options)
        with hooks_fail_visibly():
            run_to_end(loop_factory(work.loop), lambda: serve_until_told(starting, work, line))
    except (OSError, SockRPCError) as error:
        number, text = (error.errno, error.strerror) if isinstance(error, OSError) else (None, None)
        # Errors with arguments of their own are but a text there.
        kind = next((each for each in (UsageError, AppError) if isinstance(error, each)), SockRPCError)
        tell(line, Failed(kind, number, (text or str(error)) + notes_of(error)))
        sys.exit(1)


def leave_interrupts_to_the_supervisor() -> None:
    """Ctrl-C in a terminal reaches every process of the group; one of them is to act on it."""
    # Not SIG_IGN, which programs that the application starts would inherit.
    signal.signal(signal.SIGINT, lambda *_: None)
    if sys.platform != "win32":
        # Blocked by the supervisor until here.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


async def serve_until_told(starting: serve, work: Work, line: Connection) -> None:
    """Serve until the supervisor says otherwise."""
    async with starting as server:
        loop = asyncio.get_running_loop()

        def obey(order: Order) -> None:
            if order == "hurry":
                server.hurry()
            elif order == "leave":
                server._close("theirs")
            else:
                server._close("ours" if work.queue_is_ours else None)

        def told(order: Order) -> None:
            # The loop may have ended meanwhile.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(obey, order)

        sigterm_asks(server, line)
        with collector_for_serving():
            # A thread, as the loop of Windows can not watch the line.
            threading.Thread(target=follow, args=(line, told, work.patience), daemon=True).start()
            if work.on_started is not None:
                work.on_started(server)
            tell(line, Serving([each.getsockname() for each in server.sockets]))
            await server.wait_closed()


def follow(line: Connection, told: Callable[[Order], None], patience: float) -> None:
    """Pass on what the supervisor says; its end says that it is gone.

    Nobody else is left then to kill a worker that does not stop, and that holds the port.
    """
    try:
        while True:
            told(line.recv())
    except (EOFError, OSError):
        told("stop")
    time.sleep(patience)
    LOG.error("this worker has not stopped, and its supervisor is gone; it kills itself")
    os.kill(os.getpid(), KILL)


def tell(line: Connection, message: Serving | Failed | Asks) -> None:
    """Tell the supervisor, if there still is one."""
    with contextlib.suppress(OSError):
        line.send(message)


def sigterm_asks(server: Server, line: Connection) -> None:
    """SIGTERM asks the supervisor; a second one stops at once, and a third ends the process."""
    if sys.platform == "win32":
        # It knows no SIGTERM but the end of the process.
        return
    received = 0

    def ask() -> None:
        nonlocal received
        received += 1
        if received == 1:
            tell(line, Asks())
        else:
            server.hurry()

    on_signals(ask, (signal.SIGTERM,))
