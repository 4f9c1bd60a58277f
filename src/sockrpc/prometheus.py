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

from sockrpc.codes import name_of
from sockrpc.observe.statistics import Statistics
from sockrpc.peer.tally import ENDINGS, Histogram, MethodStatistics
from sockrpc.server import Server

__all__ = ["MetricsServer", "ServerCollector"]

LOG = logging.getLogger("sockrpc.server")

# Seconds that a scrape waits for the event loop; Prometheus gives up after 10 by default.
PATIENCE = 3.0

# The label of calls of unregistered methods. It changes if a registered method has this name.
UNREGISTERED = "(unregistered)"

# Metrics of a whole server: the name, the member of Statistics, and the help text.
GAUGES = [
    ("sockrpc_connections", "connections", "Open connections."),
    ("sockrpc_calls_running", "calls_running", "Calls whose work has not ended, unwinding included."),
    ("sockrpc_procedures_waiting", "procedures_waiting", "Calls and notifications that wait for their turn."),
    ("sockrpc_notifications_running", "notifications_running", "Handlers of notifications that run."),
    (
        "sockrpc_items_waiting_for_credit",
        "items_waiting_for_credit",
        "Items of streams whose senders wait for credit.",
    ),
    (
        "sockrpc_outgoing_calls_in_flight",
        "outgoing_calls_in_flight",
        "Calls made at clients that have not ended.",
    ),
    ("sockrpc_outgoing_calls_waiting", "outgoing_calls_waiting", "Calls made at clients that are not sent."),
]
COUNTERS = [
    ("sockrpc_connections_accepted", "connections_accepted", "Connections accepted."),
    ("sockrpc_slow_peers_closed", "slow_peers_closed", "Connections closed because the peer did not read."),
    ("sockrpc_received_bytes", "bytes_received", "Bytes read from connections."),
    ("sockrpc_sent_bytes", "bytes_sent", "Bytes given to transports."),
    ("sockrpc_notifications_started", "notifications_started", "Notifications whose handlers started."),
    ("sockrpc_notifications_failed", "notifications_failed", "Notifications whose handlers failed."),
    ("sockrpc_notifications_dropped", "notifications_dropped", "Notifications that no handler began with."),
    ("sockrpc_items_received", "items_received", "Items of streams received."),
    ("sockrpc_items_received_bytes", "item_bytes_received", "Bytes of items of streams received."),
    ("sockrpc_items_sent", "items_sent", "Items of streams sent."),
    ("sockrpc_items_sent_bytes", "item_bytes_sent", "Bytes of items of streams sent."),
    ("sockrpc_frames_ignored", "frames_ignored", "Frames of a later version of the protocol."),
]


class ServerCollector(Collector):
    """Turns `server.statistics()` into metrics whenever a registry collects them.

    It is made in the server's event loop and collected there, or in any other thread, which then waits for
    the loop. While the loop is blocked it yields only `sockrpc_responsive 0`.

    Args:
        server: A running server. A second one needs a registry of its own.
        patience: Seconds that another thread waits for the loop.
    """

    def __init__(self, server: Server, patience: float = PATIENCE) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._patience = patience

    def describe(self) -> Iterator[Metric]:
        """Yield the metrics without values, so that a registry can check their names for duplicates."""
        yield responsive(False)
        yield from of_server(None)
        yield from of_ends(None)
        yield from of_methods({})

    def collect(self) -> Iterator[Metric]:
        """Yield the present metrics."""
        statistics = self._statistics()
        yield responsive(statistics is not None)
        if statistics is not None:
            yield from of_server(statistics)
            yield from of_ends(statistics)
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
            # The scrape may have given up waiting.
            if result.set_running_or_notify_cancel():
                result.set_result(self._server.statistics())

        try:
            self._loop.call_soon_threadsafe(count)
            return result.result(self._patience)
        except (RuntimeError, TimeoutError):
            # The loop was closed or is blocked.
            result.cancel()
            return None


def responsive(value: bool) -> Metric:
    return GaugeMetricFamily("sockrpc_responsive", "1 if the event loop took part in this scrape.", value)


def of_server(statistics: Statistics | None) -> Iterator[Metric]:
    """Yield the metrics of the whole server."""
    for family, rows in ((GaugeMetricFamily, GAUGES), (CounterMetricFamily, COUNTERS)):
        for name, member, text in rows:
            yield family(name, text, None if statistics is None else getattr(statistics, member))


def of_ends(statistics: Statistics | None) -> Iterator[Metric]:
    """Yield how the calls of clients, and those made at them, have ended."""
    codes = CounterMetricFamily(
        "sockrpc_call_errors", "Calls that ended with an Error, by its code.", labels=["code"]
    )
    outcomes = CounterMetricFamily(
        "sockrpc_call_error_outcomes",
        "Calls that ended with an Error, by what became of their work.",
        labels=["outcome"],
    )
    outgoing = CounterMetricFamily(
        "sockrpc_outgoing_calls", "Calls made at clients that have ended.", labels=["outcome"]
    )
    if statistics is not None:
        for code, number in statistics.errors_by_code.items():
            codes.add_metric([name_of(code)], number)
        for outcome, number in statistics.errors_by_outcome.items():
            outcomes.add_metric([outcome], number)
        outgoing.add_metric(["answered"], statistics.outgoing_calls_answered)
        outgoing.add_metric(["failed"], statistics.outgoing_calls_failed)
    yield from (codes, outcomes, outgoing)


def named(statistics: Statistics) -> dict[str, MethodStatistics]:
    """Return the methods, and the unregistered ones under a name that no method has."""
    rest = UNREGISTERED
    while rest in statistics.methods:
        rest = f"({rest})"
    return {**statistics.methods, rest: statistics.unregistered}


def of_methods(methods: dict[str, MethodStatistics]) -> Iterator[Metric]:
    """Yield the metrics of each method; a histogram begins with the first time in it."""
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
        for ending in ENDINGS:
            calls.add_metric([name, ending.label], getattr(method, ending.name))
        for family, histogram in ((answers, method.answers), (unwinding, method.unwinding)):
            if histogram.total:
                family.add_metric([name], cumulative(histogram), histogram.seconds)
    yield from (in_flight, calls, answers, unwinding)


def cumulative(histogram: Histogram) -> list[tuple[str, float]]:
    """Return the buckets in Prometheus's form, in which each includes those before it."""
    bounds = [*(f"{bound:.6f}".rstrip("0") for bound in histogram.bounds), "+Inf"]
    return list(zip(bounds, itertools.accumulate(histogram.counts, initial=None), strict=True))


class MetricsServer:
    """Serves the metrics of a registry, and of one server, over HTTP in a thread of its own.

        async with MetricsServer(server, 9000):
            await server.serve_forever()

    `close` ends it and waits for the thread, at most half a second.

    Args:
        server: A running server, of the loop that this is made in.
        port: The port to listen on; 0 for any free one.
        host: The address to listen on.
        registry: The registry that has the server's metrics until the end.

    Attributes:
        uri: The URI of the metrics.

    Raises:
        OSError: The address cannot be listened on.
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
        """Stop serving, and remove the server's metrics from the registry."""
        self._registry.unregister(self._collector)
        self._httpd.shutdown()
        self._httpd.server_close()
        self._thread.join()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await asyncio.to_thread(self.close)
