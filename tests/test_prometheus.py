"""What Prometheus is told: by its own client library, parsed by its own parser, over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

import sockrpc
from sockrpc.prometheus import MetricsServer, ServerCollector
from tests.kit.command import PATIENCE, Served, failure, run_command
from tests.kit.support import Serving, request, reset, serving, until
from tests.kit.work import Work

pytestmark = pytest.mark.newest

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


def fetch(uri: str) -> str:
    with urllib.request.urlopen(uri, timeout=PATIENCE) as response:
        assert response.headers.get_content_type() == "text/plain"
        text: str = response.read().decode()
        return text


@contextlib.asynccontextmanager
async def measured(app: sockrpc.App) -> AsyncIterator[tuple[Serving, CollectorRegistry]]:
    registry = CollectorRegistry()
    async with serving(app) as here:
        registry.register(ServerCollector(here.server))
        yield here, registry


async def test_calls_are_told_by_method_and_outcome() -> None:
    work = Work()
    async with measured(work.app()) as (here, registry), await here.raw() as raw:
        await raw.send(request(1, "work"), request(2, "work"), request(3, "echo"), request(4, "made up"))
        assert await raw.answer() == (3, b"")
        await raw.send(reset(1))
        await raw.synchronize()
        await until(lambda: work.ended)
        samples = parsed(generate_latest(registry).decode())
        assert value(samples, "sockrpc_calls_total", method="echo", outcome="answered") == 1
        assert value(samples, "sockrpc_calls_total", method="work", outcome="reset") == 1
        assert value(samples, "sockrpc_calls_total", method="(unregistered)", outcome="failed") == 1
        assert value(samples, "sockrpc_calls_in_flight", method="work") == 1
        assert value(samples, "sockrpc_connections") == 1
        assert value(samples, "sockrpc_responsive") == 1
        # What did not happen is told as 0, so that a first time shows as a change.
        assert value(samples, "sockrpc_calls_total", method="work", outcome="timeout") == 0
        outcomes = {dict(labels)["outcome"] for name, labels in samples if name == "sockrpc_calls_total"}
        assert outcomes == {"answered", "failed", "reset", "lost", "timeout", "stop"}


async def test_every_number_is_that_of_the_statistics() -> None:
    work = Work()
    async with measured(work.app()) as (here, registry), await here.raw() as raw:
        await raw.send(*(request(id, "echo", b"payload") for id in range(5)), request(9, "work"))
        await until(lambda: work.calls)
        await raw.send(reset(9))
        for _ in range(5):
            await raw.answer()
        await until(lambda: here.server.statistics().calls_running == 0)
        samples = parsed(generate_latest(registry).decode())
        statistics = here.server.statistics()
        assert value(samples, "sockrpc_received_bytes_total") == statistics.bytes_received
        assert value(samples, "sockrpc_sent_bytes_total") == statistics.bytes_sent
        assert value(samples, "sockrpc_connections_accepted_total") == 1
        for family, method, histogram in (
            ("sockrpc_call_duration_seconds", "echo", statistics.methods["echo"].answers),
            ("sockrpc_abort_duration_seconds", "work", statistics.methods["work"].unwinding),
        ):
            assert value(samples, f"{family}_count", method=method) == histogram.total > 0
            assert value(samples, f"{family}_sum", method=method) == pytest.approx(histogram.seconds)
            buckets = sorted(
                (float(dict(labels)["le"]), number)
                for (name, labels), number in samples.items()
                if name == f"{family}_bucket" and ("method", method) in labels
            )
            # Each holds those before it, up to all of them in the last.
            assert [bound for bound, _ in buckets] == [*histogram.bounds, float("inf")]
            counts = [0.0, *(number for _, number in buckets)]
            assert tuple(after - before for before, after in itertools.pairwise(counts)) == histogram.counts


async def test_names_that_peers_make_up_make_no_series() -> None:
    async with measured(Work().app()) as (here, registry), await here.raw() as raw:
        before = len(parsed(generate_latest(registry).decode()))
        await raw.send(*(request(id, f"name {id}") for id in range(100)))
        await raw.synchronize()
        assert len(parsed(generate_latest(registry).decode())) == before


async def test_a_method_may_have_the_name_of_the_rest() -> None:
    app = sockrpc.App()
    app.method("(unregistered)")(lambda call: call.payload)
    async with measured(app) as (here, registry), await here.raw() as raw:
        await raw.send(request(1, "(unregistered)"), request(2, "unknown"))
        await raw.answer()
        samples = parsed(generate_latest(registry).decode())
        assert value(samples, "sockrpc_calls_total", method="(unregistered)", outcome="answered") == 1
        assert value(samples, "sockrpc_calls_total", method="((unregistered))", outcome="failed") == 1


async def test_a_name_may_hold_whatever_utf_8_has() -> None:
    name = 'new\nline "quoted" \\ \u2028 ü'
    app = sockrpc.App()
    app.method(name)(lambda call: call.payload)
    async with measured(app) as (_, registry):
        samples = parsed(generate_latest(registry).decode())
        assert value(samples, "sockrpc_calls_in_flight", method=name) == 0


async def test_another_thread_gets_what_the_loop_counts() -> None:
    async with measured(Work().app()) as (here, registry), await here.raw():
        text = await asyncio.to_thread(generate_latest, registry)
        assert value(parsed(text.decode()), "sockrpc_connections") == 1


async def test_a_blocked_loop_is_told_instead_of_waited_for() -> None:
    async with serving(Work().app()) as here:
        registry = CollectorRegistry()
        registry.register(ServerCollector(here.server, patience=0.01))
        told: list[Samples] = []
        thread = threading.Thread(target=lambda: told.append(parsed(generate_latest(registry).decode())))
        thread.start()
        # This holds up the loop.
        thread.join(PATIENCE)
        assert told == [{("sockrpc_responsive", ()): 0.0}]


async def test_two_servers_in_one_registry_are_refused() -> None:
    async with measured(Work().app()) as (_, registry), serving(Work().app()) as other:
        with pytest.raises(ValueError, match="Duplicated"):
            registry.register(ServerCollector(other.server))


async def test_metrics_are_served_by_http_until_the_end_of_the_block() -> None:
    registry = CollectorRegistry()
    async with serving(Work().app()) as here:
        async with MetricsServer(here.server, 0, registry=registry) as metrics:
            samples = parsed(await asyncio.to_thread(fetch, metrics.uri))
            assert value(samples, "sockrpc_responsive") == 1
        with pytest.raises(OSError, match="refused"):
            await asyncio.to_thread(fetch, metrics.uri)
        # Nothing of it is left in the registry.
        assert generate_latest(registry) == b""


async def test_a_port_that_is_taken_leaves_nothing_behind() -> None:
    registry = CollectorRegistry()
    async with serving(Work().app()) as here:
        with pytest.raises(OSError, match="use"):
            MetricsServer(here.server, here.port, registry=registry)
        assert generate_latest(registry) == b""


def test_the_metrics_of_an_application_are_there_as_well() -> None:
    class Own(Collector):
        def collect(self) -> list[Metric]:
            own = Metric("own", "Of the application.", "gauge")
            own.add_sample("own", {}, 7)
            return [own]

    async def run() -> Samples:
        registry = CollectorRegistry()
        registry.register(Own())
        async with serving(Work().app()) as here, MetricsServer(here.server, 0, registry=registry) as metrics:
            return parsed(await asyncio.to_thread(fetch, metrics.uri))

    assert value(asyncio.run(run()), "own") == 7


# The command line

ECHO = """
import sockrpc

app = sockrpc.App()
app.method("echo")(lambda call: call.payload)
"""


def test_serve_has_metrics_where_it_is_told_to(tmp_path: Path) -> None:
    (tmp_path / "some_app.py").write_text(ECHO)
    with Served("serve", "some_app:app", "--metrics-port", "0", cwd=tmp_path) as served:
        served.wait_log("metrics are at ")
        uri = served.logged("metrics are at ")[0].rpartition(" ")[2]
        assert run_command("call", served.uri, "echo", "hello").stdout == b"hello\n"
        samples = parsed(fetch(uri))
        assert value(samples, "sockrpc_calls_total", method="echo", outcome="answered") == 1
        # Those of the process come with the library.
        assert value(samples, "process_open_fds") > 0
        served.interrupt()
        assert served.end() == 0


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--metrics-port", "65536"), "0 to 65535"),
        (("--metrics-port", "-1"), "0 to 65535"),
        (("--metrics-host", "0.0.0.0"), "needs --metrics-port"),
    ],
)
def test_wrong_flags_are_told(flags: tuple[str, ...], text: str) -> None:
    assert text in failure(run_command("demo", *flags), 2)
