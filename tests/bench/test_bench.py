"""The instruments of bench/: how they count, what they draw, what they refuse to measure."""

from __future__ import annotations

import json
import math
import random
import statistics
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import compare, machine, results, targets
from bench.arena import alternate
from bench.grpc_load import Grpc
from bench.loading import LoadError
from bench.picture import Bar, Chart, draw
from bench.tables import markdown, number, paired_ratio, quantile
from sockrpc import _frames

pytestmark = [
    # They are about no version of Python.
    pytest.mark.tools,
    pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks stand on epoll and uvloop"),
]


def test_the_output_of_h2load_is_read_and_doubted() -> None:
    output = (
        "finished in 2.00s, 1234.50 req/s, 90.00KB/s\n"
        "requests: 2469 total, 2469 started, 2469 done, {} succeeded, {} failed, 0 errored, 0 timeout\n"
        "traffic: 1MB (1048576) total, 2KB (2048) headers (space savings 95.00%), 90KB ({}) data\n"
    )
    found = Grpc.read(output.format(2469, 0, 2469 * 37 + 16), [100.0, 300.0, 200.0], 32, 16)
    assert found["answers_per_second"] == 1234.5
    assert found["round_trip_us"]["p50"] == 200.0
    for wrong in ((2468, 1, 2469 * 37), (2469, 0, 0), (2469, 0, 2469 * 36), (2469, 0, 2486 * 37), (0, 0, 0)):
        with pytest.raises(LoadError, match="did not answer"):
            Grpc.read(output.format(*wrong), [100.0], 32, 16)
    with pytest.raises(LoadError, match="unexpected output"):
        Grpc.read("", [], 32, 16)


def test_rounds_alternate_and_begin_with_another_each_time() -> None:
    order: list[str] = []

    def measure(name: str) -> Callable[[], dict[str, Any]]:
        return lambda: order.append(name) or {"n": len(order)}  # type: ignore[func-returns-value]

    rounds = alternate(3, {name: measure(name) for name in "abc"}, say=lambda text: None)
    assert "".join(order) == "abcbcacab"
    assert rounds == {
        "a": [{"n": 1}, {"n": 6}, {"n": 8}],
        "b": [{"n": 2}, {"n": 4}, {"n": 9}],
        "c": [{"n": 3}, {"n": 5}, {"n": 7}],
    }


def test_quantiles_and_ratios() -> None:
    values = [float(value) for value in range(1, 101)]
    random.Random(1).shuffle(values)
    assert [quantile(values, share) for share in (0.0, 0.5, 0.99, 0.999, 1.0)] == [1, 50, 99, 100, 100]
    # The median of the rounds' ratios, which is not the ratio of the medians.
    assert paired_ratio([1.0, 4.0, 9.0], [1.0, 2.0, 30.0]) == 1.0
    assert [number(value) for value in (None, 0, 0.01234, 1.005, 12.34, 123.4, 1234, 1234567)] == [
        *("–", "0", "0.0123", "1.00", "12.3", "123", "1,230", "1,230,000")
    ]
    assert markdown(["a", "b"], [["x", "10"], ["long", "2"]]).splitlines() == [
        "| a    |  b |",
        "|------|---:|",
        "| x    | 10 |",
        "| long |  2 |",
    ]


def test_a_target_is_met_at_its_bound_and_not_beside_it() -> None:
    for value, least, most in ((0.69, False, True), (0.70, True, True), (0.71, True, False)):
        assert targets.Target("x", value, 0.70, True).is_met is least
        assert targets.Target("x", value, 0.70, False).is_met is most
    rounds = {"ours": [{"r": 2.0}, {"r": 9.0}, {"r": 4.0}], "other": [{"r": 1.0}, {"r": 3.0}, {"r": 4.0}]}
    found = targets.compared(rounds, "ratio", "ours", "other", ("r",), 2.0)
    assert found.value == 2.0
    assert found.is_met
    assert "| yes |" in targets.table([found])
    missed = targets.compared(rounds, "ratio", "ours", "other", ("r",), 1.9, at_least=False)
    assert "|  NO |" in targets.table([missed])


def test_a_load_generator_that_was_busy_itself_is_named() -> None:
    raw = {"small": {"a": [{"load_cpu_share": 0.4}, {"load_cpu_share": 0.95}], "tasks": [{"n": 1}]}}
    assert targets.busiest(raw) == {"small": 0.95}


def test_medians_and_ratios_of_the_comparison() -> None:
    bout = compare.throughput(1, 1)
    trip = {"p50": 1.0, "p90": 2.0, "p99": 3.0, "p99.9": 4.0}

    def results_of(*rates: float) -> list[dict[str, Any]]:
        return [{"answers_per_second": rate, "round_trip_us": trip} for rate in rates]

    ours = compare.OURS[0].name
    summary = compare.summarize(bout, {ours: results_of(10, 30, 20), "other": results_of(5, 1, 100)})
    assert summary["other"]["calls a second, 1/s"] == statistics.median([5, 1, 100])
    assert summary["other"]["of sockrpc's"] == 5 / 20
    assert summary[ours]["p99, µs"] == 3.0
    drawn = compare.chart(bout, summary)
    assert [(bar.label, bar.value, bar.kind) for bar in drawn.bars] == [
        (ours, 20, "ours"),
        ("other", 5, ""),
    ]


SVG = "{http://www.w3.org/2000/svg}"


def test_the_picture_is_well_formed_and_to_scale() -> None:
    bars = [Bar("ours & <theirs>", 100.0, "ours"), Bar("half", 50.0), Bar("nearly nothing", 0.001, "limit")]
    text = draw([Chart("first", "1/s", bars), Chart("second", "µs", bars[:1], True)], "a note\nin two lines")
    picture = ET.fromstring(text)
    widths = [float(each.get("width", "")) for each in picture.iter(f"{SVG}rect")]
    assert math.isclose(widths[0], 2 * widths[1], rel_tol=0.01)
    assert widths[2] == 1.0
    words = ["".join(each.itertext()) for each in picture.iter(f"{SVG}text")]
    assert {"ours & <theirs>", "first", "second", "a note", "in two lines", "100", "50.0"} <= set(words)
    assert "µs; less is better" in words
    assert "1/s; more is better" in words
    height = float(picture.get("height", ""))
    assert all(float(each.get("y", "")) <= height for each in picture.iter() if each.get("y"))
    # A page has no use for a picture that needs something else, and its text is for readers of screens, too.
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    description = picture.find(f"{SVG}desc")
    assert description is not None
    assert "half 50.0 1/s" in str(description.text)


def test_results_of_pytest_benchmark_become_a_table_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stats = {"min": 1e-6, "median": 2e-6, "iqr": 5e-7, "rounds": 7}
    benchmark = {
        "name": "test_something[16]",
        "param": "16",
        "stats": stats,
        "extra_info": {"calls": 16, "p99": 3e-6},
    }
    data = {
        "benchmarks": [benchmark],
        "machine_info": {"python_version": "3.12.1", "cpu": {}},
        "datetime": "2026-01-01T00",
    }
    source = tmp_path / "bench.json"
    source.write_text(json.dumps(data))
    monkeypatch.setattr(sys, "argv", ["results", str(source)])
    results.main()
    row = (tmp_path / "bench.md").read_text().splitlines()[2]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["something 16", "1.00", "2.00", "0.500", "3.00", "7", "8,000,000"]
    assert ET.parse(tmp_path / "bench.svg").getroot().tag == f"{SVG}svg"


def test_what_no_user_runs_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(str(_frames.__file__))
    is_debug = b".debug_info" in source.read_bytes()
    assert (machine.complaint_about_build() is None) == (not is_debug and not machine.is_traced())
    debug = tmp_path / source.name
    debug.write_bytes(source.read_bytes() + b".debug_info")
    monkeypatch.setattr(_frames, "__file__", str(debug))
    with pytest.raises(SystemExit, match=r"not a release build.*SOCKRPC_DEBUG=1"):
        machine.refuse_unfit_build()
    for main in (targets.main, compare.main):
        monkeypatch.setattr(sys, "argv", ["bench"])
        with pytest.raises(SystemExit, match="not a release build"):
            main()


def test_a_build_that_tells_a_tracer_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "is_traced", lambda: True)
    assert machine.complaint_about_build() is not None
