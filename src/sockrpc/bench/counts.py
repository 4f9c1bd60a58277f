"""Counts instructions with valgrind: this ignores waiting and caches, but is the same in every run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sockrpc.bench.comparison import BenchmarkError, Environment, measuring_environ
from sockrpc.bench.verdict import Outcome
from sockrpc.errors import UsageError

__all__ = ["Counted", "count"]

# Valgrind slows everything down about fifty times.
TIMEOUT = 600.0
COLLECTED = re.compile(rb"Collected : (\d+)")


@dataclass(frozen=True)
class Counted:
    """Instructions per operation on each side, averaged over `loops`."""

    name: str
    loops: int
    base: float
    head: float

    @property
    def change(self) -> float:
        """The head's count divided by the base's."""
        return self.head / self.base

    def outcome(self, limit: float) -> Outcome:
        """Return SLOWER if the change exceeds the limit; 0.03 is three per cent."""
        return Outcome.SLOWER if self.change > 1 + limit else Outcome.OK


def instructions(environment: Environment, scripts: tuple[Path, ...], name: str, loops: int) -> int:
    """Return all instructions of a process that sets one benchmark up and repeats it."""
    valgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    commands = [
        {"do": "open", "name": name},
        {"do": "freeze"},
        {"do": "repeat", "name": name, "loops": loops},
    ]
    done = subprocess.run(
        [*valgrind, *environment.command(scripts)],
        input="".join(json.dumps(command) + "\n" for command in commands).encode(),
        capture_output=True,
        env=measuring_environ(),
        timeout=TIMEOUT,
        check=False,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    said = done.stderr.decode(errors="replace")[-4000:]
    for answer in answers:
        if "error" in answer:
            raise BenchmarkError(f"{environment.python}: {name}: {answer['error']}", answer["traceback"])
    found = COLLECTED.findall(done.stderr)
    if done.returncode or len(answers) != len(commands) or not found:
        raise BenchmarkError(f"{environment.python}: {name}: valgrind ended with {done.returncode}", said)
    return int(found[-1])


def count(
    base: Environment, head: Environment, scripts: tuple[Path, ...], names: Sequence[str], loops: int
) -> list[Counted]:
    """Count both sides of the named benchmarks: a process that repeats one, minus a process that does not.

    Raises:
        BenchmarkError: A benchmark does not run.
        UsageError: There is no valgrind.
    """
    if shutil.which("valgrind") is None:
        raise UsageError("there is no valgrind (Debian: apt-get install valgrind)")
    jobs = [(name, side, times) for name in names for side in (base, head) for times in (0, loops)]
    # The processes run in parallel, because other load is not counted.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        totals = list(pool.map(lambda job: instructions(job[1], scripts, job[0], job[2]), jobs))
    counted = []
    for index, name in enumerate(names):
        base_none, base_some, head_none, head_some = totals[4 * index : 4 * index + 4]
        counted.append(Counted(name, loops, (base_some - base_none) / loops, (head_some - head_none) / loops))
    return counted
