"""scripts/test_all.py: what runs beside what, and that no test is left out."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit.processes import ROOT

# Not about versions of Python: on one interpreter only.
pytestmark = pytest.mark.tools

PATIENCE = 60.0


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    # Scripts import each other by their plain names, as Python has it for files that are run.
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("jobs")


class Log:
    """Who began and who ended, in this order."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def action(self, name: str, wait: Callable[[], object] = lambda: None, *, good: bool = True) -> object:
        def act() -> bool:
            self.lines.append(f"+{name}")
            wait()
            self.lines.append(f"-{name}")
            return good

        return act


def test_the_longest_chain_begins_first_and_what_comes_after_waits(jobs: types.ModuleType) -> None:
    log = Log()
    making = jobs.Job("making", log.action("making"), seconds=1)
    using = jobs.Job("using", log.action("using"), seconds=9, after=(making,))
    middling = jobs.Job("middling", log.action("middling"), seconds=5)
    jobs.run_jobs([middling, using, making], capacity=1, at_most=9)
    assert log.lines == ["+making", "-making", "+using", "-using", "+middling", "-middling"]


def test_what_comes_after_a_failure_does_not_run_and_all_else_does(jobs: types.ModuleType) -> None:
    log = Log()
    making = jobs.Job("making", log.action("making", good=False), seconds=9)
    using = jobs.Job("using", log.action("using"), after=(making,))
    telling = jobs.Job("telling", log.action("telling"), after=(using,))
    other = jobs.Job("other", log.action("other"))
    jobs.run_jobs([making, using, telling, other], capacity=1, at_most=9)
    assert log.lines == ["+making", "-making", "+other", "-other"]


def test_light_jobs_run_beside_a_heavy_one_and_a_second_heavy_one_does_not(jobs: types.ModuleType) -> None:
    log = Log()
    together = threading.Barrier(2)
    work = [
        jobs.Job("heavy", log.action("heavy", lambda: together.wait(PATIENCE)), seconds=9, load=0.8),
        jobs.Job("second", log.action("second"), seconds=8, load=0.8),
        # It fits beside the first of them, though it comes last; so each waits for the other in vain, if not.
        jobs.Job("light", log.action("light", lambda: together.wait(PATIENCE)), seconds=1, load=0.2),
    ]
    jobs.run_jobs(work, capacity=1, at_most=9)
    assert log.lines[:2] == ["+heavy", "+light"]
    assert log.lines[-2:] == ["+second", "-second"]


def test_no_more_run_at_a_time_than_is_asked_for(jobs: types.ModuleType) -> None:
    log = Log()
    began = threading.Event()
    # The time that another one, which should not, would need to begin.
    first = jobs.Job("first", log.action("first", lambda: began.wait(0.2)), seconds=9, load=0)
    jobs.run_jobs([first, jobs.Job("second", log.action("second", began.set), load=0)], capacity=9, at_most=1)
    assert log.lines == ["+first", "-first", "+second", "-second"]


def test_who_needs_the_machine_has_it_when_all_else_has_ended(jobs: types.ModuleType) -> None:
    log = Log()
    alone = jobs.Job("alone", log.action("alone"), seconds=99, load=0, alone=True)
    making = jobs.Job("making", log.action("making"))
    others = [jobs.Job(name, log.action(name), load=0, after=(making,)) for name in "ab"]
    jobs.run_jobs([alone, making, *others], capacity=9, at_most=9)
    assert log.lines[:2] == ["+making", "-making"]
    assert log.lines[-2:] == ["+alone", "-alone"]


def test_an_error_of_a_job_comes_out(jobs: types.ModuleType) -> None:
    def act() -> bool:
        raise LookupError("not found")

    with pytest.raises(LookupError, match="not found"):
        jobs.run_jobs([jobs.Job("failing", act)], capacity=1, at_most=1)


def run_pytest(*arguments: str) -> str:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_each_run_reads_the_files_that_have_its_tests_and_no_others(tmp_path: Path) -> None:
    runs = tmp_path / "runs.json"
    chosen = ["tests/test_load.py", "tests/peer/test_names.py", "tests/bench/test_bench_count.py"]
    run_pytest("--collect-only", "-m", "", f"--write-runs={runs}", *chosen)
    written = json.loads(runs.read_text())
    assert written["long"] == written["soak"] == ["tests/test_load.py"]
    assert written["tools"] == ["tests/bench/test_bench_count.py"]
    assert sorted(written["tests"]) == ["tests/bench/test_bench_count.py", "tests/peer/test_names.py"]
    arguments = ("--collect-only", "-qq", f"--runs={runs}", "--run=tools", "-m", "tools", "tests")
    assert run_pytest(*arguments).split() == ["tests/bench/test_bench_count.py:", "1"]


def test_every_run_of_its_own_is_one_of_the_runner(
    jobs: types.ModuleType, pytestconfig: pytest.Config
) -> None:
    conftest = pytestconfig.pluginmanager.get_plugin(str(ROOT / "tests" / "conftest.py"))
    runs = {group.name for group in importlib.import_module("test_all").MARKED}
    assert {*conftest.RUNS_OF_THEIR_OWN} == runs | {"soak"}


@pytest.mark.parametrize("count", [1, 6])
def test_each_file_is_in_one_share(jobs: types.ModuleType, count: int) -> None:
    shares = importlib.import_module("shares").deal(count)
    assert len(shares) == count
    dealt = [ROOT / file for share in shares.values() for file in share]
    assert sorted(dealt) == sorted((ROOT / "tests").glob("**/test_*.py"))
    assert min(map(len, shares.values())) > 0


def test_the_whole_command_line_is_left_out_between_the_oldest_and_the_newest() -> None:
    left_out = run_pytest("--collect-only", "-qq", "-m", "outside", "tests/cli").split()[::2]
    files = {str(file.relative_to(ROOT)) for file in (ROOT / "tests" / "cli").glob("test_*.py")}
    assert len(files) > 5
    assert {file.rstrip(":") for file in left_out} == files


def test_the_shares_of_a_run_are_all_of_its_files(tmp_path: Path) -> None:
    runs = tmp_path / "runs.json"
    files = ["tests/peer/test_names.py", "tests/test_rooms.py", "tests/test_limits_values.py"]
    runs.write_text(json.dumps({"tests": files}))
    arguments = ("--collect-only", "-qq", f"--runs={runs}", "--run=tests", "tests")
    shares = [run_pytest(*arguments, f"--share={number}/2").split()[::2] for number in range(2)]
    assert [file.rstrip(":") for share in shares for file in share] == [files[0], files[1], files[2]]


def test_the_newest_interpreter_leaves_out_no_ordinary_test(jobs: types.ModuleType) -> None:
    make = importlib.import_module("interpreters").Interpreter
    oldest, between, newest, coming = (
        make("", (3, minor, 0, level, 0), "", has_venv=True, has_headers=True)
        for minor, level in ((11, "final"), (12, "final"), (13, "final"), (14, "alpha"))
    )
    testing = importlib.import_module("test_all").Testing([oldest, between, newest, coming], [])
    marks = [testing.marks(each) for each in (oldest, between, newest, coming)]
    assert marks == [
        "not once and not newest",
        "not once and not newest and not outside",
        "not once",
        "not once and not newest and not outside",
    ]
    assert importlib.import_module("test_all").Testing([between], []).marks(between) == "not once"
