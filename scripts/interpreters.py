"""Finds the interpreters of this machine."""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import clean_environ

OLDEST_MINOR = 11

# This runs on any Python, even 2.7, so newer modules are imported only after the check of the version.
PROBE = f"""
import sys
if sys.version_info < (3, {OLDEST_MINOR}):
    print("null")
    raise SystemExit
import importlib.util, json, os, sysconfig
if sys.implementation.name != "cpython":
    answer = "is not CPython"
elif sysconfig.get_config_var("Py_GIL_DISABLED"):
    answer = "is free-threaded, which sockrpc does not promise to support yet"
else:
    answer = {{
        "path": getattr(sys, "_base_executable", sys.executable),
        "version": sys.version_info[:],
        "prefix": os.path.realpath(sys.base_prefix),
        "has_venv": all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")),
        "has_headers": os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")),
    }}
print(json.dumps(answer))
"""


@dataclass(frozen=True)
class Interpreter:
    path: str
    version: tuple[int, int, int, str, int]
    prefix: str
    has_venv: bool
    has_headers: bool

    @property
    def minor(self) -> str:
        return f"{self.version[0]}.{self.version[1]}"

    @property
    def release(self) -> str:
        suffix = "" if self.is_final else f"{self.version[3][0]}{self.version[4]}"
        return f"{self.minor}.{self.version[2]}{suffix}"

    @property
    def is_final(self) -> bool:
        return self.version[3] == "final"

    @property
    def is_ready(self) -> bool:
        return self.has_venv and self.has_headers

    def missing_packages(self) -> list[str]:
        missing = [] if self.has_venv else [f"python{self.minor}-venv"]
        return missing if self.has_headers else [*missing, f"python{self.minor}-dev"]

    def complaint(self) -> str:
        return f"venv or Python.h is missing (Debian: apt-get install {' '.join(self.missing_packages())})"


def candidates() -> list[Path]:
    names = ["python3", *(f"python3.{minor}" for minor in range(OLDEST_MINOR, 21))]
    # Search every folder, not just the first that has the name: a failing command may hide one that works.
    found = [Path(folder, name) for folder in os.get_exec_path() for name in names]
    for root in dict.fromkeys([os.environ.get("PYENV_ROOT") or "~/.pyenv", "~/.pyenv"]):
        found += sorted(Path(root).expanduser().glob("versions/*/bin/python"))
    return [path for path in dict.fromkeys(found) if path.is_file() and os.access(path, os.X_OK)]


def probe(path: Path) -> Interpreter | str | None:
    """Return a usable interpreter, why it is not usable, or None if it is simply too old to mention."""
    command = [str(path), "-c", PROBE]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=30, check=False, env=clean_environ()
        )
        answer: Any = json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        return f"does not run: {error}"
    if done.returncode:
        reasons = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return f"does not run: {reasons[0]}"
    if answer is None or isinstance(answer, str):
        return answer
    answer["version"] = tuple(answer["version"])
    return Interpreter(**answer)


def find_interpreters() -> tuple[list[Interpreter], list[str]]:
    """Return one interpreter per minor version, oldest first, and a line on each that was passed over."""
    paths = candidates()
    with ThreadPoolExecutor(8) as pool:
        probed = list(pool.map(probe, paths))
    pairs = zip(paths, probed, strict=True)
    remarks = [f"{path} {answer}" for path, answer in pairs if isinstance(answer, str)]
    best: dict[str, Interpreter] = {}
    # Go backwards, so that of several paths to one interpreter the first on PATH stays.
    known = {(i.prefix, i.version): i for i in reversed(probed) if isinstance(i, Interpreter)}
    for interpreter in sorted(known.values(), key=lambda i: (i.is_ready, i.version), reverse=True):
        chosen = best.setdefault(interpreter.minor, interpreter)
        if chosen is not interpreter:
            remarks.append(f"{interpreter.path} ({interpreter.release}) gave way to {chosen.release}")
    return sorted(best.values(), key=lambda i: i.version), remarks


def wanted_minors() -> list[str]:
    return os.environ.get("PYTHONS", "").replace(",", " ").split()
