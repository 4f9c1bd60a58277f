"""Runs the tests on every CPython >= 3.11 of this machine, and sums up.

Arguments are targets of make that run beside the tests; a failing one counts as a failing test.

Environment variables:
    PYTHONS      minor versions to run, such as ``3.12`` or ``3.11,3.13``; every one that is found otherwise
    PYTEST_ARGS  appended to every pytest command, such as ``-k reset -x``
    JOBS         processes at a time, at most; by default, as many as keep the cores busy
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from autobahn import NO_PYTHON, provide_wstest
from common import SetUpError, say
from environments import build_wheel, make_environment
from interpreters import Interpreter, find_interpreters, wanted_minors
from jobs import Job, run_jobs
from packages import (
    install_missing,
    provide_all,
    provide_browser,
    provide_network_tools,
    provide_proxies,
    provide_valgrind,
)
from runs import NO_TESTS_COLLECTED, REPORTS, Run, Show, counts

SUMMARY = REPORTS / "summary"
SUPPORTED_MINORS = [f"3.{minor}" for minor in range(11, 16)]
# The dependency groups for the tests that run once; `wheels` has the tools of the run `packaging`.
GROUPS = ("test", "browser", "node", "wheels")
# The tests must import only the wheel that was built and installed (tests/conftest.py).
INSTALLED = {"SOCKRPC_INSTALLED": "1"}

# The seconds and loads of each `Job` were measured on two idle cores.
SET_UP = (60.0, 0.8)
ORDINARY = (280.0, 0.4)
# The newest interpreter runs twice as many tests as the others; in one process, it would be the last to end,
# long after everything else.
SHARES_OF_NEWEST = 2
# The properties of random examples are tried with all of them on the newest interpreter.
FEWER_EXAMPLES = "--hypothesis-profile=short"
MAKE = (120.0, 0.95)
# Loads are means: while one job waits, another works.
OVERBOOKING = 1.3


class NotHere(Exception):
    """The reason why a run is left out without being a failure."""


def browser() -> dict[str, str]:
    return {"CHROMIUM": provide_browser()}


def conformance() -> dict[str, str]:
    wstest = provide_wstest()
    if not wstest:
        raise NotHere(f"autobahn {NO_PYTHON}")
    return {"WSTEST": wstest}


def docs() -> dict[str, str]:
    provide_proxies()
    return {}


def faults() -> dict[str, str]:
    provide_network_tools()
    return {}


def tools() -> dict[str, str]:
    try:
        provide_valgrind()
    except SetUpError as error:
        # The tests that count instructions are skipped, and say why.
        say(f"\n{error}")
    return {}


@dataclass(frozen=True)
class Group:
    """Tests with a marker of this name, which run on only one interpreter."""

    name: str
    seconds: float
    load: float
    # Provides the programs they need and returns variables for their environment.
    provide: Callable[[], dict[str, str]] = dict
    alone: bool = False


MARKED = (
    Group("browser", 100, 0.5, browser),
    Group("conformance", 20, 0.5, conformance),
    Group("docs", 60, 0.4, docs),
    Group("faults", 60, 0.2, faults),
    # The loads of these tests keep both sides of a connection busy.
    Group("long", 60, 1.5),
    Group("node", 20, 0.5),
    Group("packaging", 30, 0.9),
    Group("tools", 80, 0.7, tools),
    Group("torture", 130, 0.8),
    Group("workers", 40, 0.4),
    # These tests judge how long others wait for an answer, which means nothing beside another suite.
    Group("hostile", 60, 1.0, alone=True),
)


class Testing:
    """The jobs of `make test`, and their outcomes."""

    def __init__(self, interpreters: list[Interpreter], targets: list[str]) -> None:
        self.interpreters = interpreters
        # Avoid an unreleased interpreter if possible, because other packages may not know it.
        self.newest = max(interpreters, key=lambda i: (i.is_final, i.version))
        self.targets = targets
        self.arguments = shlex.split(os.environ.get("PYTEST_ARGS", ""))
        self.files = REPORTS / "runs.json"
        self.pythons: dict[str, Path] = {}
        self.runs: list[Run] = []
        self.skipped: list[str] = []
        self.is_only = False

    def run(self) -> None:
        cores = os.cpu_count() or 1
        at_most = int(os.environ.get("JOBS") or (1 if cores == 1 else 4 * cores))
        once = self.environment(self.newest, "clients", GROUPS)
        reading = Job("reading", self.read_tests, seconds=10, load=0.9, after=(once,))
        before = [once, reading]
        wanted = ["tests", *(group.name for group in MARKED)]
        if self.arguments:
            # The arguments may leave little to do, which is found out before anything else begins.
            run_jobs(before, cores, at_most)
            wanted = list(json.loads(self.files.read_text())) if self.files.exists() else []
            before = []
        else:
            before.append(Job("packages", self.install, seconds=30, load=0.3))
        after = tuple(before)
        jobs = [self.marked(group, after) for group in MARKED if group.name in wanted]
        if "tests" in wanted:
            # Additional packages in the environment of the tests that run once do not disturb these.
            shares = 1 if self.arguments else SHARES_OF_NEWEST
            jobs += [self.ordinary(self.newest, after[:2], (n, shares)) for n in range(shares)]
            # The newest has the most to do, and compiling keeps all cores busy; so the others come after it.
            done: tuple[Job, ...] = () if self.arguments else (once,)
            for interpreter in self.interpreters:
                if interpreter is not self.newest:
                    before.append(self.environment(interpreter, "test", ("test",), done))
                    done = (before[-1],)
                    jobs.append(self.ordinary(interpreter, done))
        jobs += [self.make(target) for target in self.targets]
        self.is_only = len(jobs) == 1
        run_jobs([*before, *jobs], cores * OVERBOOKING, at_most)

    # Actions of the jobs; each returns True if later jobs may run

    def install(self) -> bool:
        provide_all()
        return True

    def read_tests(self) -> bool:
        """Find out which files have tests of which run; otherwise each run would read all of them."""
        run = Run(self.newest.release, "reading")
        command = [
            *self.pytest("clients", self.newest),
            "--collect-only",
            "-qq",
            f"--write-runs={self.files}",
        ]
        code = run.execute([*command, "-m", "", *self.arguments], INSTALLED, show=Show.FAILURE)
        if code not in (0, NO_TESTS_COLLECTED):
            run.trouble = run.trouble or f"pytest ended with exit code {code}"
            self.runs.append(run)
        return not run.trouble

    def pytest(self, name: str, interpreter: Interpreter) -> list[str]:
        return [str(self.pythons[f"{name}-{interpreter.minor}"]), "-m", "pytest", "-p", "no:cacheprovider"]

    def environment(
        self, interpreter: Interpreter, name: str, groups: tuple[str, ...], after: tuple[Job, ...] = ()
    ) -> Job:
        name = f"{name}-{interpreter.minor}"
        # What is released is tested on the newest; the release's own workflow runs all tests on all wheels.
        quick = interpreter is not self.newest

        def make() -> bool:
            try:
                self.pythons[name] = make_environment(interpreter, name, [*groups], quick=quick)
            except SetUpError as error:
                self.fail(Run(interpreter.release, "set-up"), error)
                return False
            return True

        return Job(name, make, *SET_UP, after=after)

    def fail(self, run: Run, error: SetUpError) -> None:
        say(f"\n{error}")
        run.trouble = "set-up failed: its output stands above"
        self.runs.append(run)

    def marks(self, interpreter: Interpreter) -> str:
        """Return the marks of the ordinary tests that this interpreter runs."""
        if interpreter is self.newest:
            return "not once"
        if interpreter is self.interpreters[0]:
            return "not once and not newest"
        # Interpreters between the oldest and the newest would only repeat their results about the outside.
        return "not once and not newest and not outside"

    def ordinary(
        self, interpreter: Interpreter, after: tuple[Job, ...], share: tuple[int, int] = (0, 1)
    ) -> Job:
        number, shares = share
        what = f"tests-{number + 1}" if shares > 1 else "tests"

        def act() -> bool:
            run = Run(interpreter.release, what)
            is_newest = interpreter is self.newest
            command = self.pytest("clients" if is_newest else "test", interpreter)
            command += [f"--share={number}/{shares}"] if shares > 1 else []
            command += [] if is_newest else [FEWER_EXAMPLES]
            # Run all files unless something was chosen: another Python may collect them differently.
            chosen = shares > 1 or bool(self.arguments)
            self.test(run, command, self.marks(interpreter), {}, files="tests" if chosen else "")
            return True

        return Job(f"{what} on {interpreter.minor}", act, *ORDINARY, after=after)

    def marked(self, group: Group, after: tuple[Job, ...]) -> Job:
        def act() -> bool:
            run = Run(self.newest.release, group.name)
            try:
                variables = {**group.provide(), "SOCKRPC_WHEEL": str(build_wheel(self.newest))}
            except NotHere as why:
                self.skipped.append(f"{self.newest.release:<8} {why}")
            except SetUpError as error:
                self.fail(run, error)
            else:
                self.test(run, self.pytest("clients", self.newest), group.name, variables, files=group.name)
            return True

        return Job(group.name, act, group.seconds, group.load, after, group.alone)

    def test(
        self,
        run: Run,
        command: list[str],
        marks: str,
        variables: dict[str, str],
        *,
        files: str,
    ) -> None:
        """Run pytest, if `files` names a run only on the files that have tests of it."""
        report = REPORTS / f"{run.what}-{run.on}.xml"
        command += ["-m", marks, f"--junitxml={report}"]
        command += [f"--runs={self.files}", f"--run={files}"] if files else []
        show = Show.AT_ONCE if self.is_only else Show.AT_END
        code = run.execute([*command, *self.arguments], {**INSTALLED, **variables}, show=show)
        if report.exists():
            run.read_report(report)
        if code == NO_TESTS_COLLECTED:
            # A choice made by PYTEST_ARGS may leave one interpreter empty; the sum shows if all were.
            run.trouble = run.trouble or ("" if self.arguments else "no tests were found")
        elif (code or not report.exists()) and run.is_good:
            run.trouble = f"pytest ended with exit code {code}" + (
                "" if report.exists() else " and no report"
            )
        self.runs.append(run)

    def make(self, target: str) -> Job:
        def act() -> bool:
            run = Run("make", target)
            code = run.execute(["make", "--no-print-directory", target], {})
            if code and run.is_good:
                run.trouble = f"ended with exit code {code}"
            self.runs.append(run)
            return True

        return Job(target, act, *MAKE)


def choose() -> tuple[list[Interpreter], list[str]]:
    """Return the interpreters to run, oldest first, and a line on each that is skipped."""
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


def main() -> int:
    shutil.rmtree(REPORTS, ignore_errors=True)
    REPORTS.mkdir(parents=True)
    try:
        interpreters, skipped = choose()
    except SetUpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"testing on {', '.join(f'{i.release} ({i.path})' for i in interpreters)}", flush=True)
    testing = Testing(interpreters, sys.argv[1:])
    testing.run()

    print("\n==== summary ====")
    runs = sorted(testing.runs, key=lambda run: (not run.what.startswith("tests"), run.on, run.what))
    for line in [*(run.line() for run in runs), *testing.skipped, *skipped]:
        print(line)
    passed, failed = sum(run.passed for run in runs), sum(run.failed for run in runs)
    # Trouble outside of tests has to show in the sum as well.
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
