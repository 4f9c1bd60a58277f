"""Runs the tests on every CPython >= 3.11 of this machine, and sums up.

Environment variables:
    PYTHONS      minor versions to run, such as ``3.12`` or ``3.11,3.13``; every one that is found otherwise
    PYTEST_ARGS  appended to every pytest command, such as ``-k reset -x``
    JOBS         interpreters at a time; three where there are two cores or more, one otherwise
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from autobahn import NO_PYTHON, provide_wstest
from common import ROOT, SetUpError, clean_environ
from environments import build_wheel, make_environment
from interpreters import Interpreter, find_interpreters, wanted_minors
from packages import (
    install_missing,
    provide_browser,
    provide_network_tools,
    provide_proxies,
    provide_valgrind,
)

REPORTS = ROOT / "build" / "test"
SUMMARY = REPORTS / "summary"
SUPPORTED_MINORS = [f"3.{minor}" for minor in range(11, 16)]
ORDINARY = "not once"
# What is not about Python's versions runs on one interpreter only, with what it needs beside Python.
CLIENTS = ("browser", "node")
# `wheels` is the group with the tools of the run `packaging`.
GROUPS = ("test", *CLIENTS, "wheels")
NO_TESTS_COLLECTED = 5
# Far above what a whole run takes: single tests have time-outs of their own.
RUN_LIMIT_SECONDS = 900

Made = TypeVar("Made")


@dataclass
class Run:
    """One pytest process, or a set-up that failed before there was one."""

    interpreter: Interpreter
    what: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    trouble: str = ""

    @property
    def is_good(self) -> bool:
        return not self.failed and not self.trouble

    def line(self) -> str:
        outcome = self.trouble or f"{counts(self.passed, self.failed, self.skipped)} in {self.seconds:.0f} s"
        return f"{self.interpreter.release:<8} {self.what:<7} {outcome}"


def counts(passed: int, failed: int, skipped: int) -> str:
    return f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else "")


def banner(text: str) -> None:
    print(f"\n==== {text} ====", flush=True)


def read_report(run: Run, report: Path) -> None:
    for suite in ET.parse(report).getroot().iter("testsuite"):
        tests, failures, errors, skipped = (
            int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")
        )
        run.failed += failures + errors
        run.skipped += skipped
        run.passed += max(0, tests - failures - errors - skipped)


def run_pytest(interpreter: Interpreter, python: Path, what: str, marks: str, *, stream: bool) -> Run:
    """Runs pytest once. Its output goes straight out if `stream` is set, and is printed at the end if not."""
    run = Run(interpreter, what)
    report, log = (REPORTS / f"{what}-{interpreter.minor}.{kind}" for kind in ("xml", "log"))
    command = [str(python), "-m", "pytest", "-p", "no:cacheprovider", "-m", marks, f"--junitxml={report}"]
    command += shlex.split(os.environ.get("PYTEST_ARGS", ""))
    if stream:
        banner(f"{what} on {interpreter.release}")
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=clean_environ(),
            stdin=subprocess.DEVNULL,
            stdout=None if stream else output,
            stderr=None if stream else subprocess.STDOUT,
        )
        try:
            code = process.wait(RUN_LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            run.trouble = f"did not end within {RUN_LIMIT_SECONDS} s"
            code = -1
        finally:
            process.kill()
            process.wait()
    run.seconds = time.monotonic() - started
    if report.exists():
        read_report(run, report)
    if code == NO_TESTS_COLLECTED:
        # A choice made by PYTEST_ARGS may well leave one of the runs empty; the sum tells if all were.
        run.trouble = "" if os.environ.get("PYTEST_ARGS") else "no tests were found"
    elif (code or not report.exists()) and run.is_good:
        run.trouble = f"pytest ended with exit code {code}" + ("" if report.exists() else " and no report")
    if not stream:
        banner(f"{what} on {interpreter.release}")
        print(log.read_text(errors="replace"), flush=True)
    return run


def choose() -> tuple[list[Interpreter], list[str]]:
    """The interpreters to run, oldest first, and a line on each that is skipped."""
    found, remarks = find_interpreters()
    minors = wanted_minors()
    chosen = [i for i in found if not minors or i.minor in minors]
    absent = [minor for minor in SUPPORTED_MINORS if minor not in {i.minor for i in found}]
    skipped = [f"{minor:<8} skipped: not found" for minor in absent]
    skipped += [f"{i.release:<8} skipped: PYTHONS asks for others" for i in found if i not in chosen]
    missing = set(minors) - {i.minor for i in chosen}
    if missing:
        raise SetUpError(f"PYTHONS asks for {', '.join(sorted(missing))}: not found")
    if not chosen:
        raise SetUpError("no CPython >= 3.11 was found")
    chosen = install_missing(chosen)
    for interpreter in [i for i in chosen if not i.is_ready and not minors]:
        chosen.remove(interpreter)
        skipped.append(f"{interpreter.release:<8} skipped: {interpreter.complaint()}")
    if not chosen:
        raise SetUpError("\n".join(["no interpreter can be used", *skipped]))
    return chosen, [*sorted(skipped), *(f"         {remark}" for remark in remarks)]


def outcome(future: Future[Made], run: Run, runs: list[Run]) -> Made | None:
    """What a step of the set-up made; where it failed, `run` counts as failed."""
    try:
        return future.result()
    except SetUpError as error:
        print(f"\n{error}", flush=True)
        run.trouble = "set-up failed: its output stands above"
        runs.append(run)
        return None


def main() -> int:
    # Nothing but the wheel that was built and installed may be what is tested.
    os.environ["SOCKRPC_INSTALLED"] = "1"
    shutil.rmtree(REPORTS, ignore_errors=True)
    REPORTS.mkdir(parents=True)
    cores = os.cpu_count() or 1
    # Tests wait more than they work.
    jobs = int(os.environ.get("JOBS") or (1 if cores == 1 else min(3, cores + 1)))
    try:
        interpreters, skipped = choose()
    except SetUpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"testing on {', '.join(f'{i.release} ({i.path})' for i in interpreters)}", flush=True)
    # Not one that is to be released yet, if it can be helped: other packages may not know it.
    newest = max(interpreters, key=lambda i: (i.is_final, i.version))
    runs: list[Run] = []
    with ThreadPoolExecutor(jobs) as pool:
        browser, autobahn = pool.submit(provide_browser), pool.submit(provide_wstest)
        # Where it can not be had, the tests that count instructions are skipped, and say why.
        valgrind = pool.submit(provide_valgrind)
        proxies = pool.submit(provide_proxies)
        making = [pool.submit(make_environment, i, f"test-{i.minor}", ["test"]) for i in interpreters]
        making_clients = pool.submit(make_environment, newest, f"clients-{newest.minor}", list(GROUPS))
        pythons: dict[Interpreter, Path] = {}
        for interpreter, future in zip(interpreters, making, strict=True):
            made = outcome(future, Run(interpreter, "tests"), runs)
            if made is not None:
                pythons[interpreter] = made
        stream = jobs == 1 or len(pythons) == 1
        if not stream:
            print(f"running {jobs} interpreters at a time; what one prints follows once it ended", flush=True)
        runs += pool.map(lambda i: run_pytest(i, pythons[i], "tests", ORDINARY, stream=stream), pythons)

        python = outcome(making_clients, Run(newest, "node"), runs)
        chromium = outcome(browser, Run(newest, "browser"), runs)
        if python is not None:
            clients = [what for what in CLIENTS if what != "browser" or chromium is not None]
            os.environ["SOCKRPC_WHEEL"] = str(build_wheel(newest))
            clients.append("packaging")
            os.environ["CHROMIUM"] = chromium or ""
            wstest = outcome(autobahn, Run(newest, "conformance"), runs)
            if wstest:
                os.environ["WSTEST"] = wstest
                clients.append("conformance")
            elif wstest is not None:
                skipped.append(f"{newest.release:<8} autobahn {NO_PYTHON}")
            clients.append("docs")
            proxies.result()
            runs += pool.map(lambda what: run_pytest(newest, python, what, what, stream=jobs == 1), clients)
    if valgrind.exception() is not None:
        print(f"\n{valgrind.exception()}", flush=True)
    if newest in pythons:
        # Their limits of time mean little beside another suite, either.
        provide_network_tools()
        runs.append(run_pytest(newest, pythons[newest], "faults", "faults", stream=True))
        # Only now, and alone: load figures mean nothing while another suite takes a core.
        for what in ("long", "hostile"):
            runs.append(run_pytest(newest, pythons[newest], what, what, stream=True))

    banner("summary")
    for line in [*(run.line() for run in runs), *skipped]:
        print(line)
    passed, failed = sum(run.passed for run in runs), sum(run.failed for run in runs)
    # Trouble that no test stands for has to show in the sum as well.
    failed += sum(1 for run in runs if run.trouble and not run.failed)
    if not passed and not failed:
        print("no test ran", file=sys.stderr)
        failed = 1
    total = counts(passed, failed, sum(run.skipped for run in runs))
    SUMMARY.write_text(f"{total}\n")
    print(total, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
