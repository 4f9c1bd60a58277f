"""What `sockrpc serve` and `sockrpc demo` take for whoever operates a server: logs, metrics, the view."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Any

import sockrpc
from sockrpc import logs
from sockrpc.cli.flags import METRICS_HOST
from sockrpc.listen.notes import about

if TYPE_CHECKING:
    import argparse

    from sockrpc.prometheus import MetricsServer

__all__ = ["Operation"]

LARGEST_PORT = 65_535

# The loop itself refers to tasks only weakly.
RUNNING: set[asyncio.Task[Any]] = set()


class Operation:
    """What runs beside a server, from when it has started until it has stopped.

    With several worker processes each has metrics of its own, on the first that is free of twice as
    many ports from `--metrics-port` on. It can be pickled, for them.

    Args:
        options: Of the command line.

    Raises:
        UsageError: The options can not be met.
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
    """What serves metrics.

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
