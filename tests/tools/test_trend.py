"""scripts/trend.py: a history that grows, and its chart."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from tests.kit.processes import ROOT

# Not about versions of Python: on one interpreter only.
pytestmark = pytest.mark.tools

SVG = "{http://www.w3.org/2000/svg}"


def reports(folder: Path, seconds: float, instructions: float) -> list[Path]:
    machine = {"processor": "a processor", "time": "2026-11-23T00:00:00+00:00"}
    attempts = [{"seconds": {"base": [9.0], "head": [seconds * 2, seconds]}}]
    times = {"machine": machine, "benchmarks": {"reset & abort": {"attempts": attempts}}}
    counts = {"machine": machine, "benchmarks": {"parser": {"base": 1.0, "head": instructions}}}
    paths = [folder / "time.json", folder / "counts.json"]
    for path, told in zip(paths, (times, counts), strict=True):
        path.write_text(json.dumps(told))
    return paths


def add(folder: Path, revision: str, *files: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", str(ROOT / "scripts" / "trend.py"), "--revision", revision]
    command += ["--history", str(folder / "history.json"), "--chart", str(folder / "trend.svg")]
    return subprocess.run(
        [*command, *map(str, files)], capture_output=True, text=True, check=False, timeout=60
    )


def history(folder: Path) -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = json.loads((folder / "history.json").read_text())["points"]
    return points


def test_each_run_adds_a_point_with_the_fastest_round_of_the_head(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        done = add(tmp_path, f"revision {number}", *reports(tmp_path, number * 1e-6, number * 100.0))
        assert (done.returncode, done.stderr) == (0, "")
    points = history(tmp_path)
    assert [each["revision"] for each in points] == ["revision 1", "revision 2", "revision 3"]
    assert points[2]["seconds"] == {"reset & abort": 3e-6}
    assert points[2]["instructions"] == {"parser": 300.0}
    assert points[2]["processor"] == "a processor"
    chart = ET.fromstring((tmp_path / "trend.svg").read_text("utf-8"))
    assert [text.text for text in chart.iter(f"{SVG}text")] == [
        "parser: 300 instructions",
        "reset & abort: 3 µs",
    ]
    lines = [line.attrib["points"].split() for line in chart.iter(f"{SVG}polyline")]
    assert [len(line) for line in lines] == [3, 3]
    # From the left to the right, and slower is higher.
    assert [tuple(map(float, at.split(","))) for at in lines[1]] == [(24, 72), (160, 48), (296, 24)]


def test_a_revision_that_is_measured_again_has_one_point(tmp_path: Path) -> None:
    for seconds in (1e-6, 2e-6):
        add(tmp_path, "the same", *reports(tmp_path, seconds, 1.0))
    (point,) = history(tmp_path)
    assert point["seconds"] == {"reset & abort": 2e-6}


def test_one_report_is_enough_and_none_is_an_error(tmp_path: Path) -> None:
    times, _ = reports(tmp_path, 1e-6, 1.0)
    assert add(tmp_path, "one", times, tmp_path / "missing.json").returncode == 0
    assert history(tmp_path)[0]["instructions"] == {}
    done = add(tmp_path, "two", tmp_path / "missing.json")
    assert (done.returncode, done.stderr) == (1, "error: the guard left no report\n")
    assert len(history(tmp_path)) == 1


def test_a_history_of_another_format_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "history.json").write_text('{"format": 99}')
    done = add(tmp_path, "one", *reports(tmp_path, 1e-6, 1.0))
    assert "has format 99" in done.stderr
    assert (tmp_path / "history.json").read_text() == '{"format": 99}'
