"""`sockrpc serve` and `sockrpc demo`: serve until a signal comes, with logs and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import json
import socket
import ssl
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sockrpc
from sockrpc import logs
from sockrpc.cli.options import (
    METRICS_HOST,
    Commands,
    add_serving_options,
    given_limits,
    given_places,
    whole_number,
)
from sockrpc.cli.pages import page_routes, plain_routes, serve_pages
from sockrpc.limits import SERVER_KEYWORDS
from sockrpc.listen.notes import about, notes_of
from sockrpc.listen.server_hooks import hooks_fail_visibly
from sockrpc.listen.server_sockets import listening_url
from sockrpc.listen.systemd import named_sockets
from sockrpc.listen.unix import typed_uds
from sockrpc.process.importer import load_app

if TYPE_CHECKING:
    import argparse

    from sockrpc.prometheus import MetricsServer

__all__ = ["Operation", "add_serving_commands"]

LARGEST_PORT = 65_535

# The loop itself refers to tasks only weakly.
RUNNING: set[asyncio.Task[Any]] = set()


def add_serving_commands(commands: Commands) -> None:
    """Add `serve` and `demo`."""
    serving = commands.add("serve", run_serve, "serve an app", "MODULE:APP")
    serving.add_argument("app", metavar="MODULE:APP", help="an App, or a coroutine function of one socket")
    add_serving_options(
        serving,
        {
            "--path": {"help": "answer on this path only"},
            "--page": {
                "type": Path,
                "metavar": "FILE",
                "help": "serve this page at /, and /sockrpc.js; by default / says what is here",
            },
            "--workers": {
                "type": whole_number,
                "default": 1,
                "metavar": "N",
                "help": "processes that serve on the same port (%(default)s)",
            },
        },
    )
    add_serving_options(commands.add("demo", run_demo, "serve the tutorial's procedures and its page"), {})


def run_serve(options: argparse.Namespace) -> int:
    """`sockrpc serve`."""
    # Modules of the current folder are found.
    sys.path.insert(0, "")
    app = options.app if options.workers != 1 else load_app(options.app)
    if options.page is None:
        routes = plain_routes(options.path, secure=options.ssl_certfile is not None)
    elif options.page.is_file():
        routes = page_routes(options.page)
    else:
        raise sockrpc.UsageError(f"{options.page} is not a file")
    return run_server(options, app, path=options.path, process_request=serve_pages(routes))


def run_demo(options: argparse.Namespace) -> int:
    """`sockrpc demo`."""
    from sockrpc.demo import make_app

    page = Path(__file__).parents[1] / "demo" / "index.html"
    routes = page_routes(page, "demo.css", "demo.js")
    return run_server(options, make_app(), path="/socket", process_request=serve_pages(routes))


def run_server(options: argparse.Namespace, app: Any, **more: Any) -> int:
    """Serve until a signal comes."""
    if len(given_places(options)) > 1:
        raise sockrpc.UsageError("where to listen is one of: --host and --port, --uds, --fd")
    workers = getattr(options, "workers", 1)
    operation = Operation(options)
    operation.configure_logs()
    tls = None
    if options.ssl_certfile is not None:
        tls = functools.partial(server_context, options.ssl_certfile, options.ssl_keyfile)
    elif options.ssl_keyfile is not None:
        raise sockrpc.UsageError("--ssl-keyfile needs --ssl-certfile")
    origins: Any = options.origin
    if origins is not None and "*" in origins:
        origins = "*"

    def listening(addresses: Sequence[Any]) -> None:
        for each in addresses[: None if options.fd else 1]:
            where = listening_url(each, "https" if tls else "http")
            report: dict[str, Any] = {"listening": where}
            if workers != 1:
                report["workers"] = workers
                where += f" ({workers} workers)"
            # The line is flushed, because a program may wait for it on a pipe.
            print(json.dumps(report) if options.json else where, flush=True)

    arguments = {
        "uds": typed_uds(options.uds),
        "sock": None if options.fd is None else named_sockets(options.fd),
        "reuse_port": options.reuse_port or None,
        "ssl": tls,
        "origins": origins,
        "compression": options.compression,
        "inspect_path": options.inspect_path,
        "loop": options.loop,
        **given_limits(options, SERVER_KEYWORDS),
        **more,
    }

    def started(server: sockrpc.Server) -> None:
        operation.started(server)
        listening([each.getsockname() for each in server.sockets])

    with listening_errors(options), hooks_fail_visibly():
        if workers == 1:
            sockrpc.run(app, options.host, options.port, on_started=started, **arguments)
        else:
            from sockrpc.process.workers import run_workers

            run_workers(
                app,
                workers,
                options.host,
                options.port,
                prepare=operation.configure_logs,
                on_started=operation.started,
                on_listening=listening,
                **arguments,
            )
    return 0


@contextlib.contextmanager
def listening_errors(options: argparse.Namespace) -> Iterator[None]:
    """Errors say where it was to listen, and how else."""
    where = options.uds or (f"--fd {', '.join(options.fd)}" if options.fd else f"--host {options.host}")
    is_tcp = options.uds is None and options.fd is None
    try:
        yield
    except OSError as error:
        if notes_of(error):
            raise
        if is_tcp and error.errno == errno.EADDRINUSE:
            error.add_note("--port N chooses another, --port 0 any free one")
        elif isinstance(error, socket.gaierror) or (not is_tcp and where not in str(error)):
            error.add_note(where)
        raise


def server_context(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """Return the context of a server of wss."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with about(f"--ssl-certfile {certificate}" + (f", --ssl-keyfile {key}" if key else "")):
        context.load_cert_chain(certificate, key)
    return context


class Operation:
    """Logs and metrics beside a server, from its start until it has stopped.

    With several worker processes each has metrics of its own, on the first that is free of twice as
    many ports from `--metrics-port` on. Workers get this object by pickle.

    Args:
        options: The options of the command line.

    Raises:
        UsageError: The options cannot be met.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._log = (options.log_level, options.log_format)
        self._port: int | None = options.metrics_port
        self._host: str = options.metrics_host
        self._processes: int = getattr(options, "workers", None) or 1
        if self._port is not None:
            metrics_server()
            if not 0 <= self._port <= LARGEST_PORT:
                raise sockrpc.UsageError(f"--metrics-port is 0 to {LARGEST_PORT}, not {self._port}")
        elif self._host != METRICS_HOST:
            raise sockrpc.UsageError("--metrics-host needs --metrics-port")

    def configure_logs(self) -> None:
        """Begin to log, in this process."""
        logs.configure(*self._log, processes=self._processes)

    def started(self, server: sockrpc.Server) -> None:
        """The server listens, in this process and in the running loop."""
        if self._port is not None:
            metrics = self._serve_metrics(server, self._port)
            task = asyncio.get_running_loop().create_task(close_after(server, metrics))
            RUNNING.add(task)
            task.add_done_callback(RUNNING.discard)

    def _serve_metrics(self, server: sockrpc.Server, first: int) -> MetricsServer:
        serve = metrics_server()
        # A worker has its port until its successor serves.
        last = min(first + 2 * self._processes - 1, LARGEST_PORT) if first and self._processes > 1 else first
        with about(f"--metrics-port {first}, --metrics-host {self._host}"):
            for port in range(first, last):
                try:
                    return serve(server, port, self._host)
                except OSError as error:
                    if error.errno != errno.EADDRINUSE:
                        raise
            return serve(server, last, self._host)


async def close_after(server: sockrpc.Server, metrics: MetricsServer) -> None:
    """Serve metrics as long as there is a server that they are of."""
    try:
        await server.wait_closed()
    finally:
        metrics.close()


def metrics_server() -> type[MetricsServer]:
    """Return the class that serves metrics.

    Raises:
        UsageError: prometheus_client is not installed.
    """
    try:
        from sockrpc.prometheus import MetricsServer
    except ModuleNotFoundError as error:
        if error.name != "prometheus_client":
            raise
        raise sockrpc.UsageError("--metrics-port needs prometheus-client: sockrpc[prometheus]") from None
    return MetricsServer
