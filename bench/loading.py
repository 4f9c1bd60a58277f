"""The load generator: compiled when its source changes, run on a core of its own."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any, Self

from bench.machine import LOAD_CORE
from bench.wire import FAN_OUT_BYTES

SOURCES = Path(__file__).with_name("load")
BUILT = Path(__file__).parent.parent / "build" / "bench"
FLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-D_GNU_SOURCE"]
# This exceeds the load generator's own time-outs, whose messages are more precise.
PATIENCE = 60.0


class LoadError(Exception):
    """The load generator found a wrong answer, or had no answer or no connection."""


def program(name: str = "load") -> Path:
    """The path of a program of `bench/load`, compiled if it is older than its source."""
    target = BUILT / name
    BUILT.mkdir(parents=True, exist_ok=True)
    with (BUILT / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        newest = max(path.stat().st_mtime for path in SOURCES.iterdir())
        if not target.exists() or target.stat().st_mtime < newest:
            compile_program(SOURCES / f"{name}.c", target)
    return target


def compile_program(source: Path, target: Path) -> None:
    compiler = shlex.split(os.environ.get("CC", "")) or [shutil.which("cc") or "gcc"]
    # Compile beside the target and rename, so that another process never runs half a program.
    unfinished = target.with_suffix(".new")
    subprocess.run([*compiler, *FLAGS, "-o", str(unfinished), str(source)], check=True)
    unfinished.replace(target)


def on_core(core: int | None, command: list[str]) -> list[str]:
    """Return the command, pinned to that core."""
    return command if core is None else ["taskset", "--cpu-list", str(core), *command]


def load_command(mode: str, port: int, **options: object) -> list[str]:
    words = [str(program()), mode, "--port", str(port)]
    for name, value in options.items():
        # A flag has no value.
        words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return on_core(LOAD_CORE, words)


def load(mode: str, port: int, **options: object) -> dict[str, Any]:
    """Run the load generator to its end; options are those of its command line.

    Raises:
        LoadError: A server answered wrongly, or not at all.
    """
    done = subprocess.run(
        load_command(mode, port, **options),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE + float(str(options.get("seconds", 1))),
        check=False,
    )
    if done.returncode:
        raise LoadError(done.stderr.strip() or f"exit code {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


class Conversation:
    """A program that answers each line with a line, and ends with its input."""

    def __init__(self, command: list[str], *, cwd: Path | None = None) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        try:
            _, complaint = self.process.communicate(timeout=PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()
        if self.process.returncode and kind is None:
            raise LoadError(complaint.strip() or f"exit code {self.process.returncode}")

    def hear(self) -> str:
        """Return the next line.

        Raises:
            LoadError: The program has ended; the message is its complaint.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            assert self.process.stderr is not None
            raise LoadError(self.process.stderr.read().strip() or "the program has ended")
        return line.strip()

    def ask(self, line: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self.hear()


class Load(Conversation):
    """Calls that are kept in flight until the context ends."""

    def __init__(self, port: int, **options: object) -> None:
        super().__init__(load_command("calls", port, seconds=0, **options))
        assert self.hear() == "ready"


class FanOut(Conversation):
    """Connections that wait for broadcasts."""

    def __init__(self, port: int, connections: int, dialect: str = "rpc", path: str = "/fanout") -> None:
        self.connections = connections
        options = {"connections": connections, "dialect": dialect, "path": path, "size": FAN_OUT_BYTES}
        super().__init__(load_command("fanout", port, **options))
        assert self.hear() == "ready"

    def broadcast(self) -> float:
        """Return the seconds from the request for a broadcast until all have it."""
        return float(json.loads(self.ask(""))["ns"]) / 1e9


class Held(Conversation):
    """Connections, with calls in flight that are never answered."""

    def __init__(
        self, port: int, connections: int, calls: int, dialect: str = "rpc", path: str = "/", **more: object
    ) -> None:
        options: dict[str, object] = {
            "connections": connections,
            "in-flight": calls,
            "dialect": dialect,
            "path": path,
            "size": 0,
            "method": "suspended",
        }
        super().__init__(load_command("hold", port, **{**options, **more}))
        assert self.hear() == "ready"
