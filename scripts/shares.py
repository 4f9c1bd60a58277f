"""Runs the tests in several parallel processes, each with a share of the files."""

from __future__ import annotations

import json
import os
import shutil

from common import ROOT
from jobs import Job, run_jobs
from runs import NO_TESTS_COLLECTED, Run

# There are more shares than processes, because it is unknown which files take long.
SHARES_PER_CORE = 3
# Tracing or checking each step makes the compiled code many times slower. The first is for a test as a whole,
# the second for everything that it waits for (tests/kit/support.py).
PATIENCE = "--timeout=600"
PATIENT = {"SOCKRPC_PATIENCE": "60"}


def deal(count: int) -> dict[str, list[str]]:
    """Deal all test files into `count` shares of about the same size."""
    shares: dict[str, list[str]] = {str(number): [] for number in range(1, count + 1)}
    sizes = dict.fromkeys(shares, 0)
    for file in sorted(ROOT.glob("tests/**/test_*.py"), key=lambda file: (-file.stat().st_size, file)):
        lightest = min(shares, key=lambda number: sizes[number])
        shares[lightest].append(str(file.relative_to(ROOT)))
        sizes[lightest] += file.stat().st_size
    return shares


def run_shares(
    what: str, command: list[str], marks: str, environ: dict[str, str], *, alone: str = "", uvloop: str = ""
) -> bool:
    """Run the tests with these marks; then, with the machine to itself, those with the mark `alone`.

    If the tests run only on asyncio, the file `uvloop` also runs on uvloop.

    Prints the output and the outcome of each process; returns True if all is well.
    """
    folder = ROOT / "build" / "shares" / what
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    cores = os.cpu_count() or 1
    shares = deal(SHARES_PER_CORE * cores)
    written = folder / "shares.json"
    runs: list[Run] = []

    def share(name: str, marks: str, environ: dict[str, str]) -> Job:
        def act() -> bool:
            run = Run(what, name, folder)
            report = folder / f"{name}.xml"
            chosen = [f"--runs={written}", f"--run={name}", "-m", marks, f"--junitxml={report}"]
            code = run.execute(
                [*command, "-p", "no:cacheprovider", "-q", PATIENCE, *chosen], PATIENT | environ
            )
            if report.exists():
                run.read_report(report)
            if code not in (0, NO_TESTS_COLLECTED) and run.is_good:
                run.trouble = f"pytest ended with exit code {code}"
            runs.append(run)
            return True

        return Job(name, act, alone=name == alone)

    jobs = [share(name, marks, environ) for name in shares]
    if alone:
        shares[alone] = [file for files in shares.values() for file in files]
        jobs.append(share(alone, alone, environ))
    if uvloop:
        shares["uvloop"] = [uvloop]
        jobs.append(share("uvloop", marks, environ | {"SOCKRPC_LOOPS": "uvloop"}))
    written.write_text(json.dumps(shares))
    run_jobs(jobs, capacity=cores, at_most=cores)
    print("\n==== summary ====")
    for run in runs:
        print(run.line())
    return all(run.is_good for run in runs) and any(run.passed for run in runs)
