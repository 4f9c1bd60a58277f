"""Runs the benchmarks of scripts, a round at a time, by commands in JSON, one object per line.

It is run by its path, with the Python of the measured environment. That may have an older sockrpc, so
this imports only the file beside it from the package, by its path.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.metadata
import importlib.util
import inspect
import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["Benchmark", "main"]

PREFIX = "bench_"
# Self-timed operations give the median of at least this many samples per round.
LEAST_SAMPLES = 5


class ScriptError(Exception):
    """A fault of the script or of a benchmark in it."""


def load_file(name: str, path: Path) -> ModuleType:
    """Import a file under a given name."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ScriptError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class Benchmark:
    """A benchmark: its set-up, the timed operation, its end."""

    def __init__(self, function: Callable[..., Any], kit: ModuleType, slow: float) -> None:
        self._function = function
        self._kit = kit
        self._slow = slow
        self._loop: asyncio.AbstractEventLoop | None = None
        self._generator: Any = None
        self._operation: Callable[[], Any] = function
        self._awaits = False
        self._self_timed = False

    def open(self) -> None:
        """Run the set-up, and the operation once."""
        parameters = inspect.signature(self._function).parameters
        function = partial(self._function, self._kit.Bench()) if parameters else self._function
        is_generator = inspect.isasyncgenfunction(self._function)
        if is_generator or inspect.iscoroutinefunction(self._function):
            self._loop = self._kit.new_event_loop()
        if is_generator:
            self._generator = function()
            self._operation = self._run(anext(self._generator))
        elif inspect.isgeneratorfunction(self._function):
            self._generator = function()
            self._operation = next(self._generator)
        else:
            self._operation = function
        if not callable(self._operation):
            raise ScriptError(f"it yields {self._operation!r}, which cannot be called")
        self._self_timed = bool(getattr(self._operation, "is_self_timed", False))
        self._run(self._try())

    def _run(self, awaitable: Awaitable[Any]) -> Any:
        if self._loop is not None:
            return self._loop.run_until_complete(awaitable)
        # A plain benchmark has no loop and never waits, so it ends in one step.
        try:
            awaitable.__await__().send(None)
        except StopIteration as end:
            return end.value
        raise AssertionError("a plain benchmark waited")

    async def _try(self) -> None:
        result = self._operation()
        self._awaits = inspect.isawaitable(result)
        if self._awaits:
            if self._loop is None:
                close = getattr(result, "close", None)
                if close is not None:
                    close()
                raise ScriptError("what is timed has to be awaited: make the benchmark async")
            result = await result
        if self._self_timed and not isinstance(result, float):
            raise ScriptError(f"a self-timed operation returns seconds, not {result!r}")

    def calibrate(self, seconds: float) -> int:
        """Return how many operations take about this many seconds."""
        loops = 1
        while (took := self._wall(loops)) < seconds / 4:
            loops = max(loops + 1, min(loops * 10, int(loops * seconds / max(took, 1e-9))))
        # Take the fastest of a few: a disturbed one would make all rounds too short.
        took = min(took, *(self._wall(loops) for _ in range(4)))
        return max(1, round(loops * seconds / took))

    def _wall(self, loops: int) -> float:
        began = time.perf_counter()
        self._run(self._sample(loops) if self._self_timed else self._time(loops))
        return time.perf_counter() - began

    def round(self, loops: int) -> float:
        """Return the seconds of one operation."""
        gc.collect()
        if self._self_timed:
            return float(self._run(self._sample(loops)))
        return float(self._run(self._time(loops))) / loops

    def repeat(self, loops: int) -> None:
        """Run the operation `loops` times."""
        self._run(self._time(loops))

    async def _time(self, loops: int) -> float:
        operation = self._operation
        began = time.perf_counter()
        if self._awaits:
            for _ in range(loops):
                await operation()
        else:
            for _ in range(loops):
                operation()
        return self._slowed(began, time.perf_counter() - began)

    async def _sample(self, loops: int) -> float:
        samples = []
        for _ in range(max(loops, LEAST_SAMPLES)):
            result = self._operation()
            seconds = await result if self._awaits else result
            samples.append(self._slowed(time.perf_counter() - seconds, seconds))
        return statistics.median(samples)

    def _slowed(self, began: float, took: float) -> float:
        """For the self-test: keep the processor busy longer, and return the resulting time."""
        if not self._slow:
            return took
        end = began + took * (1 + self._slow)
        while (now := time.perf_counter()) < end:
            pass
        return now - began

    def close(self) -> None:
        """Undo the set-up."""
        if self._loop is not None:
            if self._generator is not None:
                self._run(self._generator.aclose())
            self._run(self._loop.shutdown_asyncgens())
            self._loop.close()
        elif self._generator is not None:
            self._generator.close()


class Benchmarks:
    """The benchmarks of all scripts, and their commands."""

    def __init__(self, scripts: list[str], slow: float) -> None:
        self._kit = load_file("sockrpc_bench_loopback", Path(__file__).with_name("loopback.py"))
        self._benchmarks: dict[str, Benchmark] = {}
        for index, script in enumerate(scripts):
            path = Path(script)
            module = load_file(f"sockrpc_bench_script_{index}_{path.stem}", path)
            for attribute, function in vars(module).items():
                if not attribute.startswith(PREFIX) or not callable(function):
                    continue
                name = attribute.removeprefix(PREFIX)
                if name in self._benchmarks:
                    raise ScriptError(f"there are two benchmarks {name!r}")
                self._benchmarks[name] = Benchmark(function, self._kit, slow)
        self._open: list[Benchmark] = []

    def names(self) -> list[str]:
        return [*self._benchmarks]

    def versions(self) -> dict[str, Any]:
        found: dict[str, Any] = {"python": sys.version.split()[0], "executable": sys.executable}
        for name in ("sockrpc", "uvloop", "websockets"):
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                found[name] = None
        spec = importlib.util.find_spec("sockrpc")
        found["location"] = None if spec is None or spec.origin is None else str(Path(spec.origin).parent)
        return found

    def open(self, name: str) -> None:
        self._benchmarks[name].open()
        self._open.append(self._benchmarks[name])

    def freeze(self) -> None:
        # The rounds must not spend time on searching the objects of the set-up for garbage.
        gc.collect()
        gc.freeze()
        gc.disable()

    def calibrate(self, name: str, seconds: float) -> int:
        return self._benchmarks[name].calibrate(seconds)

    def round(self, name: str, loops: int) -> float:
        return self._benchmarks[name].round(loops)

    def repeat(self, name: str, loops: int) -> None:
        self._benchmarks[name].repeat(loops)

    def close(self) -> None:
        while self._open:
            self._open.pop().close()


COMMANDS = {"names", "versions", "open", "freeze", "calibrate", "round", "repeat", "close"}


def answer(benchmarks: Benchmarks, line: str) -> dict[str, Any]:
    command: dict[str, Any] = json.loads(line)
    name = command.pop("do")
    if name not in COMMANDS:
        raise ValueError(f"there is no command {name!r}")
    return {"result": getattr(benchmarks, name)(**command)}


def main() -> None:
    """Answer each line of standard input with a line on standard output; the script has standard error."""
    options: dict[str, Any] = json.loads(sys.argv[1])
    # Output of the script must not get between the answers, and it must not read the commands.
    commands = os.fdopen(os.dup(0), encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.path[:0] = options["paths"]
    benchmarks: Benchmarks | None = None
    for line in commands:
        try:
            if benchmarks is None:
                benchmarks = Benchmarks(options["scripts"], options["slow"])
            reply = answer(benchmarks, line)
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        print(json.dumps(reply), file=answers, flush=True)


if __name__ == "__main__":
    main()
