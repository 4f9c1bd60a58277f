"""The page about operating names every metric, with its type and its labels, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import sockrpc
from sockrpc import prometheus
from sockrpc.codes import name_of
from sockrpc.observe import inspector as inspection
from tests.kit.support import request, reset, serving, until
from tests.kit.work import Work

pytestmark = pytest.mark.newest

TEXT = (Path(__file__).parents[2] / "docs" / "reference" / "metrics.md").read_text("utf-8")
# Those of the format, not of the metric.
FORMAT = {"le"}


async def test_the_table_is_what_is_exported() -> None:
    work = Work()
    registry = CollectorRegistry()
    async with serving(work.app()) as here, await here.raw() as raw:
        registry.register(prometheus.ServerCollector(here.server))
        await raw.send(request(1, "work"), request(2, "echo"))
        await until(lambda: work.calls)
        await raw.send(reset(1))
        await until(lambda: here.server.statistics().calls_running == 0)
        exported = {
            (family.name + ("_total" if family.type == "counter" else "")): (
                family.type,
                {label for sample in family.samples for label in sample.labels} - FORMAT,
            )
            for family in text_string_to_metric_families(generate_latest(registry).decode())
        }
    rows = re.findall(r"^\| `(sockrpc_\w+)` \| (\w+) \| ([\w, ]*?) ?\| .", TEXT, re.MULTILINE)
    assert {name: (kind, set(labels.replace(",", "").split())) for name, kind, labels in rows} == exported


def test_outcomes_and_numbers_are_those_of_the_code() -> None:
    (line,) = re.findall(r"^- `outcome` of .*?(?=^- )", TEXT, re.MULTILINE | re.DOTALL)
    expected = {"outcome", "sockrpc_calls_total", *(each.label for each in prometheus.ENDINGS)}
    assert set(re.findall(r"`(\w+)`", line)) == expected
    for text in (r"^\| `sockrpc_call_error_outcomes_total`.*$", r"^\| `code`, `outcome` .*$"):
        (line,) = re.findall(text, TEXT, re.MULTILINE)
        assert set(re.findall(r"`(\w+)`", line)) >= {
            name_of(outcome) for outcome in sockrpc.Outcome if outcome is not sockrpc.Outcome.UNKNOWN
        }
    text = " ".join(TEXT.split())
    assert f"within {prometheus.PATIENCE:g} s" in text
    assert f"`{prometheus.UNREGISTERED}`" in text
    assert f"at most {inspection.MAX_VIEWERS} viewers" in text
    assert f"at most {inspection.MAX_ROWS} methods and {inspection.MAX_ROWS} connections" in text
    assert f"at most {inspection.MAX_CALLS:,} calls" in text
    assert f"after {inspection.PATIENCE:g} s" in text
    assert f"({inspection.SHORTEST_INTERVAL:g} to {inspection.LONGEST_INTERVAL:,g})" in text


@pytest.mark.runs_block("docs/reference/metrics.md", "Alerts", "yaml")
def test_alerts_ask_for_metrics_that_there_are() -> None:
    alerts = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)[0]
    asked = {name.removesuffix("_bucket") for name in re.findall(r"\bsockrpc_\w+", alerts)}
    assert asked <= set(re.findall(r"^\| `(sockrpc_\w+)`", TEXT, re.MULTILINE))
    assert asked
