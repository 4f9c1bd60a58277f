"""A process of pytest or make, and its outcome."""

from __future__ import annotations

import subprocess
import threading
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from common import ROOT, clean_environ

REPORTS = ROOT / "build" / "test"
# Several times the longest parallel run, half of the ordinary tests of the newest interpreter (about 300 s).
# Single tests have time-outs of their own.
LIMIT_SECONDS = 1800
# pytest's own exit code.
NO_TESTS_COLLECTED = 5
# Keeps the final output of several runs from mixing.
OUTPUT = threading.Lock()


class Show(Enum):
    """The time at which the output of a process is printed."""

    AT_ONCE = auto()
    AT_END = auto()
    FAILURE = auto()


@dataclass
class Run:
    """One pytest process or make, or a set-up that failed before there was one."""

    on: str
    what: str
    folder: Path = REPORTS
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    trouble: str = ""

    @property
    def is_good(self) -> bool:
        return not self.failed and not self.trouble

    def line(self) -> str:
        cpu = f", {self.cpu_seconds:.0f} s of CPU" if self.cpu_seconds else ""
        outcome = self.trouble or counts(self.passed, self.failed, self.skipped)
        return f"{self.on:<8} {self.what:<11} {outcome} in {self.seconds:.0f} s{cpu}"

    def execute(self, command: list[str], environ: dict[str, str], *, show: Show = Show.AT_END) -> int:
        """Run the process, and return its exit code."""
        stream = show is Show.AT_ONCE
        if stream:
            banner(f"{self.what} on {self.on}")
        log = self.folder / f"{self.what}-{self.on}.log"
        started = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=clean_environ() | environ,
                stdin=subprocess.DEVNULL,
                stdout=None if stream else output,
                stderr=None if stream else subprocess.STDOUT,
            )
            try:
                code = process.wait(LIMIT_SECONDS)
            except subprocess.TimeoutExpired:
                self.trouble = f"did not end within {LIMIT_SECONDS} s"
                code = -1
            finally:
                process.kill()
                process.wait()
        self.seconds = time.monotonic() - started
        if show is Show.AT_END or (show is Show.FAILURE and code not in (0, NO_TESTS_COLLECTED)):
            with OUTPUT:
                banner(f"{self.what} on {self.on}")
                print(log.read_text(errors="replace"), flush=True)
        return code

    def read_report(self, report: Path) -> None:
        """Read the counts of pytest, and the time that it and its children worked."""
        root = ET.parse(report).getroot()
        for suite in root.iter("testsuite"):
            tests, failures, errors, skipped = (
                int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")
            )
            self.failed += failures + errors
            self.skipped += skipped
            self.passed += max(0, tests - failures - errors - skipped)
        self.cpu_seconds = sum(
            float(each.get("value", "0"))
            for each in root.iter("property")
            if each.get("name") == "cpu_seconds"
        )


def counts(passed: int, failed: int, skipped: int) -> str:
    return f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else "")


def banner(text: str) -> None:
    print(f"\n==== {text} ====", flush=True)
