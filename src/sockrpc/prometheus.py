"""The statistics of a server for Prometheus; needs the extra `sockrpc[prometheus]`."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import logging
from collections.abc import Iterator
from typing import Any, Self

from prometheus_client import REGISTRY, CollectorRegistry, start_http_server
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from sockrpc.observe.statistics import Statistics
from sockrpc.peer.tally import OUTCOMES, Histogram, MethodStatistics
from sockrpc.server import Server

__all__ = ["MetricsServer", "ServerCollector"]

LOG = logging.getLogger("sockrpc.server")

# How long a scrape waits for the event loop, in seconds; Prometheus gives up after 10 by default.
PATIENCE = 3.0

# The label of calls that name no registered method. A method that is called so itself changes it.
UNREGISTERED = "(unregistered)"

# Whole servers: the name, the member of Statistics, and what it is.
GAUGES = [
    ("sockrpc_connections", "connections", "Open connections."),
    ("sockrpc_calls_running", "calls_running", "Calls whose work has not ended, unwinding included."),
    ("sockrpc_procedures_waiting", "procedures_waiting", "Calls and notifications that wait for their turn."),
    ("sockrpc_notifications_running", "notifications_running", "Handlers of notifications that run."),
]
COUNTERS = [
    ("sockrpc_connections_accepted", "connections_accepted", "Connections accepted."),
    ("sockrpc_slow_peers_closed", "slow_peers_closed", "Connections closed because the peer did not read."),
    ("sockrpc_received_bytes", "bytes_received", "Bytes read from connections."),
    ("sockrpc_sent_bytes", "bytes_sent", "Bytes given to transports."),
    ("sockrpc_notifications_started", "notifications_started", "Notifications whose handlers started."),
    ("sockrpc_notifications_failed", "notifications_failed", "Notifications whose handlers failed."),
    ("sockrpc_notifications_dropped", "notifications_dropped", "Notifications that no handler began with."),
]


class ServerCollector(Collector):
    """Turns `server.statistics()` into metrics, whenever a registry collects them.

    Made in the server's event loop; collected there, or in any other thread, which waits for the loop
    then. While the loop is blocked there is nothing but `sockrpc_responsive 0`.

    Args:
        server: A running server. A second one needs a registry of its own.
        patience: How long another thread waits for the loop, in seconds.
    """

    def __init__(self, server: Server, patience: float = PATIENCE) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._patience = patience

    def describe(self) -> Iterator[Metric]:
        """The metrics without values: their names are not to be given twice in a registry."""
        yield responsive(False)
        yield from of_server(None)
        yield from of_methods({})

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        statistics = self._statistics()
        yield responsive(statistics is not None)
        if statistics is not None:
            yield from of_server(statistics)
            yield from of_methods(named(statistics))

    def _statistics(self) -> Statistics | None:
        try:
            if asyncio.get_running_loop() is self._loop:
                return self._server.statistics()
        except RuntimeError:
            # No loop runs in this thread.
            pass
        result: concurrent.futures.Future[Statistics] = concurrent.futures.Future()

        def count() -> None:
            # What comes too late is for nobody.
            if result.set_running_or_notify_cancel():
                result.set_result(self._server.statistics())

        try:
            self._loop.call_soon_threadsafe(count)
            return result.result(self._patience)
        except (RuntimeError, TimeoutError):
            # The loop was closed, or it is blocked.
            result.cancel()
            return None


def responsive(value: bool) -> Metric:
    return GaugeMetricFamily("sockrpc_responsive", "1 if the event loop took part in this scrape.", value)


def of_server(statistics: Statistics | None) -> Iterator[Metric]:
    """What concerns no single method."""
    for family, rows in ((GaugeMetricFamily, GAUGES), (CounterMetricFamily, COUNTERS)):
        for name, member, text in rows:
            yield family(name, text, None if statistics is None else getattr(statistics, member))


def named(statistics: Statistics) -> dict[str, MethodStatistics]:
    """The methods, and the rest under a name that none of them has."""
    rest = UNREGISTERED
    while rest in statistics.methods:
        rest = f"({rest})"
    return {**statistics.methods, rest: statistics.unregistered}


def of_methods(methods: dict[str, MethodStatistics]) -> Iterator[Metric]:
    """What is told of each method; a histogram begins with the first time in it."""
    in_flight = GaugeMetricFamily(
        "sockrpc_calls_in_flight", "Calls neither answered nor failed nor aborted.", labels=["method"]
    )
    calls = CounterMetricFamily(
        "sockrpc_calls", "Calls that are over for their clients.", labels=["method", "outcome"]
    )
    answers = HistogramMetricFamily(
        "sockrpc_call_duration_seconds",
        "From the read that completed a request to its answer being queued.",
        labels=["method"],
    )
    unwinding = HistogramMetricFamily(
        "sockrpc_abort_duration_seconds",
        "From an abort to the end of the work that it cancelled, undo hooks included.",
        labels=["method"],
    )
    for name, method in methods.items():
        in_flight.add_metric([name], method.in_flight)
        for outcome in OUTCOMES:
            calls.add_metric([name, outcome.label], getattr(method, outcome.name))
        for family, histogram in ((answers, method.answers), (unwinding, method.unwinding)):
            if histogram.total:
                family.add_metric([name], cumulative(histogram), histogram.seconds)
    yield from (in_flight, calls, answers, unwinding)


def cumulative(histogram: Histogram) -> list[tuple[str, float]]:
    """The buckets as Prometheus wants them: each holds all that is in those before it."""
    bounds = [*(f"{bound:.6f}".rstrip("0") for bound in histogram.bounds), "+Inf"]
    return list(zip(bounds, itertools.accumulate(histogram.counts, initial=None), strict=True))


class MetricsServer:
    """Serves the metrics of a registry, and of one server, by HTTP in a thread of its own.

        async with MetricsServer(server, 9000):
            await server.serve_forever()

    `close` ends it; it waits for the thread, at most half a second.

    Args:
        server: A running server, of the loop that this is made in.
        port: Where; 0 is any free one.
        host: The address.
        registry: Where the server's metrics are until the end.

    Attributes:
        uri: Where the metrics are.

    Raises:
        OSError: The address can not be listened on.
    """

    def __init__(
        self, server: Server, port: int, host: str = "127.0.0.1", registry: CollectorRegistry = REGISTRY
    ) -> None:
        self._registry = registry
        self._collector = ServerCollector(server)
        registry.register(self._collector)
        self._httpd: Any
        try:
            self._httpd, self._thread = start_http_server(port, host, registry)
        except BaseException:
            registry.unregister(self._collector)
            raise
        where = f"[{host}]" if ":" in host else host
        self.uri = f"http://{where}:{self._httpd.server_port}/metrics"
        LOG.info("metrics are at %s", self.uri)

    def close(self) -> None:
        """End it."""
        self._registry.unregister(self._collector)
        self._httpd.shutdown()
        self._httpd.server_close()
        self._thread.join()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await asyncio.to_thread(self.close)
