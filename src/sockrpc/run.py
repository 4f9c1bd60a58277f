"""Run a server until a signal stops it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Literal, Unpack

from sockrpc.app import App
from sockrpc.errors import UsageError
from sockrpc.listen.serve_options import ServeOptions
from sockrpc.listen.systemd import notify_systemd
from sockrpc.process.event_loop import collector_for_serving, loop_factory, run_to_end
from sockrpc.process.importer import import_purpose, load
from sockrpc.process.signals import check_main_thread, on_signals, signals_given_back
from sockrpc.server import Server, serve
from sockrpc.sockets import SocketHandler

__all__ = ["run"]

RUNNING = "run cannot be called in a running event loop; serve can"

LOG = logging.getLogger("sockrpc.server")


def run(
    app: App | SocketHandler | str,
    host: str | None = None,
    port: int | None = None,
    *,
    workers: int = 1,
    loop: Literal["auto", "uvloop", "asyncio"] = "auto",
    on_started: Callable[[Server], None] | None = None,
    **options: Unpack[ServeOptions],
) -> None:
    """Serve until SIGINT or SIGTERM, then stop gracefully; a second signal stops at once.

    A third ends the process by that signal in any case, even if a handler never returns and the loop
    therefore notices no signal. Afterwards the program's own handlers of these signals are restored.
    systemd is notified of the start and the stop of the server, if it asks for that.
    Meanwhile the garbage collector looks less often, and not among the objects that were there before
    (docs/explanation/performance.md).
    Blocks. Must be called in the main thread, outside any event loop.

    With more than one of `workers`, that many processes serve on the same port, and this one supervises
    them: a worker that dies is replaced, and all stop together. Each imports the app, and the program,
    anew (call `run` under `if __name__ == "__main__":`), gets the other arguments by pickle, and has its own
    rooms, counters, limits and state of the app: nothing is shared among them. A worker that fails before it
    has served ends everything, with its error.

    Args:
        app: An `App`, a coroutine function of one `Socket`, or the place of either: "module:app".
        host: The address to listen on, 127.0.0.1 by default.
        port: The TCP port, 3000 by default.
        workers: The number of processes; with more than one, `app` is "module:app".
        loop: "auto" uses uvloop if it is installed.
        on_started: Called with the server when it listens; each worker calls it with its own.
        options: Everything else that `serve` takes, limits included.

    Raises:
        OSError: The address cannot be listened on.
        UsageError: The arguments do not fit together.
        SockRPCError: A worker failed before it served, or had to be killed as it did not stop.
    """
    if (purpose := import_purpose()) is not None:
        raise UsageError(
            f"run was called while the program was imported {purpose}: "
            'put it under `if __name__ == "__main__":`'
        )
    check_main_thread()
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        is_running = False
    else:
        is_running = True
    if workers != 1:
        if not isinstance(app, str):
            raise UsageError(f"workers import the app by themselves: write run('module:app'), not {app!r}")
        if is_running:
            raise UsageError(RUNNING)
        from sockrpc.process.workers import run_workers

        run_workers(app, workers, host, port, loop=loop, on_started=on_started, **options)
        return
    if options.get("uds") is None and options.get("sock") is None:
        host = "127.0.0.1" if host is None else host
        port = 3000 if port is None else port
    loaded = load(app) if isinstance(app, str) else app
    # This checks the arguments before there is a loop to clean up.
    starting = serve(loaded, host, port, **options)
    make_loop = loop_factory(loop)
    if is_running:
        raise UsageError(RUNNING)
    with signals_given_back():
        run_to_end(make_loop, lambda: Running(starting, on_started).run())


class Running:
    """A server that signals stop, from before it starts until it has stopped."""

    def __init__(self, starting: serve, on_started: Callable[[Server], None] | None) -> None:
        self._starting = starting
        self._on_started = on_started
        self._server: Server | None = None
        self._task: asyncio.Task[object] | None = None
        self._signals = 0

    async def run(self) -> None:
        """Serve until a signal comes."""
        self._task = asyncio.current_task()
        on_signals(self._signalled)
        try:
            async with self._starting as server:
                self._server = server
                with collector_for_serving():
                    await self._serve(server)
        except asyncio.CancelledError:
            # A signal came before the server had started.
            if not self._signals or self._server is not None:
                raise

    async def _serve(self, server: Server) -> None:
        LOG.info("listening on %s", ", ".join(str(each.getsockname()) for each in server.sockets))
        if self._on_started is not None:
            self._on_started(server)
        notify_systemd("READY=1")
        await server.wait_stopping()
        notify_systemd("STOPPING=1")
        await server.wait_closed()

    def _signalled(self) -> None:
        self._signals += 1
        if self._server is None:
            assert self._task is not None
            self._task.cancel()
        elif self._signals == 1:
            self._server.close()
            log_pending_work(self._server)
        else:
            self._server.hurry()


def log_pending_work(server: Server) -> None:
    """Log why the stop takes time, and how to force it, for users who have pressed Ctrl-C."""
    now = server.statistics()
    if now.calls_in_flight or now.notifications_running:
        LOG.info(
            "stopping: %d calls and %d notifications have %g s to end; a second signal aborts them",
            now.calls_in_flight,
            now.notifications_running,
            server._limits.stop_grace,
        )
