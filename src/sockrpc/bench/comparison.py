"""Compares two environments with persistent processes, and rounds interleaved at random."""

from __future__ import annotations

import json
import os
import queue
import random
import subprocess
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from sockrpc.bench.verdict import SIDES, Attempt, Outcome, Result, overall
from sockrpc.errors import UsageError

__all__ = [
    "BenchmarkError",
    "Comparison",
    "Environment",
    "MeasuringProcess",
    "Plan",
    "compare",
    "measuring_environ",
]

WORKER = Path(__file__).with_name("measuring_process.py")
# These variables lead a Python to packages outside its own environment.
MISLEADING = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")


class BenchmarkError(Exception):
    """A benchmark, or the process that runs it, failed.

    Attributes:
        details: The traceback, or the last output of the process.
    """

    def __init__(self, text: str, details: str = "") -> None:
        super().__init__(text)
        self.details = details


@dataclass(frozen=True)
class Environment:
    """A side of a comparison: a Python, and further folders to import from."""

    python: Path
    paths: tuple[Path, ...] = ()

    @classmethod
    def at(cls, place: Path, paths: tuple[Path, ...] = ()) -> Environment:
        """Return the environment of a virtual environment or of an interpreter.

        Raises:
            UsageError: There is no Python, or no such folder.
        """
        candidates = [place, place / "bin" / "python", place / "Scripts" / "python.exe"]
        for folder in paths:
            if not folder.is_dir():
                raise UsageError(f"{folder} is not a folder")
        for candidate in candidates:
            if candidate.is_file():
                # Do not resolve the link: it makes this the Python of its environment.
                return cls(candidate.absolute(), tuple(folder.absolute() for folder in paths))
        raise UsageError(f"{place} is neither a virtual environment nor a Python")

    def command(self, scripts: tuple[Path, ...], slow: float = 0.0) -> list[str]:
        """Return the command that runs a measuring process."""
        options = {
            "scripts": [str(script.absolute()) for script in scripts],
            "paths": [str(path) for path in self.paths],
            "slow": slow,
        }
        # -P keeps out the folder of this package and the current one, which may hold sources of either side.
        return [str(self.python), "-P", str(WORKER), json.dumps(options)]


def measuring_environ() -> dict[str, str]:
    """Return the variables of a measuring process; they fix the order of sets and dicts on both sides."""
    environ = {name: value for name, value in os.environ.items() if name not in MISLEADING}
    return {**environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}


@dataclass(frozen=True)
class Plan:
    """The subject of a comparison, and its settings.

    Attributes:
        scripts: Files with functions `bench_*`.
        limit: How much slower a benchmark may be; 0.1 is ten per cent.
        rounds: Rounds of each benchmark on each side, per attempt.
        confirm: Further attempts for benchmarks that were slower or noisy.
        round_seconds: The approximate length of a round. It is short, so that on a busy machine some rounds
            are
            not interrupted: there, rounds of 10 ms differed by 26 % at worst, those of 1.5 ms by 6 %.
        timeout: The limit in seconds for a set-up or a round.
        only: Run benchmarks whose names contain this text.
        seed: The seed for the order of rounds.
        slow: For self-tests: the sides to slow down, and by how much.
    """

    base: Environment
    head: Environment
    scripts: tuple[Path, ...]
    limit: float = 0.10
    rounds: int = 60
    confirm: int = 2
    round_seconds: float = 0.002
    timeout: float = 120.0
    only: str = ""
    seed: int = field(default_factory=lambda: random.SystemRandom().getrandbits(32))
    slow: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for script in self.scripts:
            if not script.is_file():
                raise UsageError(f"{script} is not a file")
        if not self.scripts:
            raise UsageError("there is no script")
        if self.rounds < 4 or self.confirm < 1 or not self.limit > 0:
            raise UsageError("at least 4 rounds, 1 confirmation, and a limit above 0")


class MeasuringProcess:
    """A process of one side, which executes commands."""

    def __init__(self, command: list[str], side: str, timeout: float) -> None:
        self._side = side
        self._timeout = timeout
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=measuring_environ(),
                encoding="utf-8",
            )
        except BaseException:
            self._log.close()
            raise
        # Some systems cannot wait for a pipe with a time-out, but a queue can on all.
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def ask(self, command: str, **arguments: Any) -> Any:
        """Execute a command in the process and return its result.

        Raises:
            BenchmarkError: The command failed, the process ended, or it did not answer in time.
        """
        what = " ".join([command, *map(str, arguments.values())])
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": command, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=self._timeout)
        except queue.Empty:
            self._process.kill()
            raise BenchmarkError(
                f"{self._side}: {what!r} took longer than {self._timeout:g} s", self._said()
            ) from None
        except OSError:
            line = ""
        if not line:
            code = self._process.wait()
            raise BenchmarkError(
                f"{self._side}: the process ended at {what!r}, exit code {code}", self._said()
            )
        answer = json.loads(line)
        if "error" in answer:
            raise BenchmarkError(f"{self._side}: {what}: {answer['error']}", answer["traceback"])
        return answer["result"]

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-4000:]

    def end(self) -> None:
        """End the process, by force if it does not end by itself."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except OSError:
            pass
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()


@dataclass
class Comparison:
    """The outcome of a comparison.

    Attributes:
        results: The benchmarks that both sides can run.
        incomparable: Benchmarks that the base fails to run, and why.
        new: Benchmarks that the script defines only with the head.
        versions: The versions of the packages on each side.
    """

    plan: Plan
    results: list[Result]
    incomparable: dict[str, str]
    new: list[str]
    versions: dict[str, dict[str, Any]]

    @property
    def outcome(self) -> Outcome:
        """The outcome of the whole run."""
        return overall(self.results, [*self.incomparable])


class Trio:
    """A process for each side, with all benchmarks set up in each."""

    def __init__(self, plan: Plan, order: random.Random) -> None:
        self._plan = plan
        self._order = order
        environments = {"base": plan.base, "control": plan.base, "head": plan.head}
        self._processes: dict[str, MeasuringProcess] = {}
        self.incomparable: dict[str, str] = {}
        self.new: list[str] = []
        try:
            # Start in random order, because the first may get better memory.
            for side in order.sample(SIDES, len(SIDES)):
                command = environments[side].command(plan.scripts, plan.slow.get(side, 0.0))
                self._processes[side] = MeasuringProcess(command, side, plan.timeout)
        except BaseException:
            self.end()
            raise

    def versions(self) -> dict[str, dict[str, Any]]:
        return {side: self._processes[side].ask("versions") for side in ("base", "head")}

    def open(self, wanted: list[str] | None) -> list[str]:
        """Set up the benchmarks that both sides have, and return their names."""
        names: dict[str, list[str]] = {
            side: process.ask("names") for side, process in self._processes.items()
        }
        of_head = [name for name in names["head"] if self._plan.only in name]
        if wanted is not None:
            of_head = [name for name in of_head if name in wanted]
        ready = []
        for name in of_head:
            if name not in names["base"]:
                self.new.append(name)
                continue
            # A benchmark that the head cannot run is a defect; the base may lack a feature.
            self._processes["head"].ask("open", name=name)
            try:
                for side in ("base", "control"):
                    self._processes[side].ask("open", name=name)
            except BenchmarkError as error:
                self.incomparable[name] = str(error)
            else:
                ready.append(name)
        for process in self._processes.values():
            process.ask("freeze")
        return ready

    def measure(self, names: list[str], progress: Callable[[str], None]) -> dict[str, Attempt]:
        plan = self._plan
        attempts: dict[str, Attempt] = {}
        for name in names:
            loops = self._processes["base"].ask("calibrate", name=name, seconds=plan.round_seconds)
            attempts[name] = Attempt(loops, {side: [] for side in SIDES}, plan.limit)
            for side in SIDES:
                # The first round warms the caches and the adaptive interpreter, and does not count.
                self._processes[side].ask("round", name=name, loops=loops)
        for number in range(plan.rounds):
            progress(f"round {number + 1} of {plan.rounds}, {len(names)} benchmarks")
            # Each sweep runs all benchmarks, so that a minute of noise hits a part of each and not all of
            # one.
            for name in self._order.sample(names, len(names)):
                attempt = attempts[name]
                for side in self._order.sample(SIDES, len(SIDES)):
                    seconds = self._processes[side].ask("round", name=name, loops=attempt.loops)
                    attempt.rounds[side].append(seconds)
        for process in self._processes.values():
            process.ask("close")
        return attempts

    def end(self) -> None:
        for process in self._processes.values():
            process.end()


def compare(plan: Plan, progress: Callable[[str], None] = lambda text: None) -> Comparison:
    """Measure both sides; measure slower or noisy benchmarks again with fresh processes.

    Raises:
        BenchmarkError: A benchmark does not run with the head.
        UsageError: There is nothing to compare.
    """
    order = random.Random(plan.seed)
    results: dict[str, Result] = {}
    incomparable: dict[str, str] = {}
    versions: dict[str, dict[str, Any]] = {}
    new: list[str] = []
    wanted: list[str] | None = None
    for attempt in range(1 + plan.confirm):
        trio = Trio(plan, order)
        try:
            names = trio.open(wanted)
            if attempt == 0:
                versions = trio.versions()
                incomparable, new = trio.incomparable, trio.new
                if not names and not incomparable:
                    raise UsageError("there is no function bench_* that both sides have")
            for name, measured in trio.measure(names, progress).items():
                results.setdefault(name, Result(name)).attempts.append(measured)
        finally:
            trio.end()
        wanted = [name for name, result in results.items() if result.outcome is Outcome.INCONCLUSIVE]
        if not wanted:
            break
        if attempt < plan.confirm:
            progress(f"again, with fresh processes: {', '.join(wanted)}")
    return Comparison(plan, list(results.values()), incomparable, new, versions)
