"""scripts/guard.py: what it builds and compares; the comparison itself is tested with `sockrpc.bench`."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import sockrpc
from sockrpc.bench.comparison import Environment, MeasuringProcess
from tests.kit.processes import ROOT

# Not about versions of Python: on one interpreter only.
pytestmark = pytest.mark.tools

PACKAGES = Path(sockrpc.__file__).parents[1]
SUITE = sorted((ROOT / "bench" / "guard").glob("*.py"))


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    # Scripts import each other by their plain names, as Python has it for files that are run.
    pytest.importorskip("fcntl", reason="environments are made on a Unix only")
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("guard")


def test_each_injection_has_its_place_in_the_sources(guard: types.ModuleType) -> None:
    for name, anchor, work in guard.INJECTIONS:
        text = (ROOT / "src" / "sockrpc" / name).read_text("utf-8")
        changed = guard.inject(text, anchor, work)
        assert len(changed) == len(text) + len(work)
    assert guard.INJECTIONS


def test_an_injection_whose_place_is_gone_is_an_error(guard: types.ModuleType) -> None:
    with pytest.raises(guard.SetUpError, match="not there once, but 0 times"):
        guard.inject("text", "no such line\n", "work\n")


def test_the_benchmarks_that_have_to_be_found_exist(guard: types.ModuleType) -> None:
    counted = [guard.SUITE / name for name in guard.COUNTED]
    for scripts, wanted in ((SUITE, guard.FOUND_BY_TIME), (counted, guard.FOUND_BY_COUNT)):
        environment = Environment(Path(sys.executable), (PACKAGES,))
        with MeasuringProcess(environment.command(tuple(scripts)), "head", timeout=60.0) as process:
            assert wanted <= set(process.ask("names"))
    # What the guard is for: throughput and reset-to-abort; parser, encoder and dispatch by instructions.
    assert {"answers_to_ready_made_bytes", "reset_to_abort"} <= guard.FOUND_BY_TIME
    assert {"parser", "encoder", "dispatch"} <= guard.FOUND_BY_COUNT


def test_each_benchmark_of_the_suite_runs_again_and_again() -> None:
    environment = Environment(Path(sys.executable), (PACKAGES,))
    with MeasuringProcess(environment.command(tuple(SUITE)), "head", timeout=60.0) as process:
        names = process.ask("names")
        assert len(names) >= 11
        for name in names:
            process.ask("open", name=name)
            # Each tells whether it was answered; more than one share of the handlers' time.
            process.ask("repeat", name=name, loops=20)
            assert process.ask("round", name=name, loops=3) > 0
        process.ask("close")


def test_a_revision_that_does_not_exist_is_told(guard: types.ModuleType) -> None:
    with pytest.raises(guard.SetUpError, match="rev-parse"):
        guard.extract("no-such-revision")


@pytest.mark.parametrize(
    ("arguments", "environ", "wanted"),
    [
        ([], {}, "one of BASE and --selftest"),
        (["main", "--selftest"], {}, "one of BASE and --selftest"),
        (["main"], {"SOCKRPC_DEBUG": "1"}, "SOCKRPC_DEBUG is set"),
    ],
)
def test_wrong_use_is_told(arguments: list[str], environ: dict[str, str], wanted: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "guard.py"), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environ,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert wanted in done.stderr
