"""Finds interpreters, and makes virtual environments with the package in them.

As a command: makes the environment NAME on the newest released interpreter, then becomes COMMAND inside it.
The text ``{minor}`` in NAME stands for that interpreter's version, as in ``test-{minor}``.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / ".venv"
OLDEST_MINOR = 11

# Runs on every Python there may be, 2.7 included: anything newer is imported after the question of age.
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


class SetUpError(Exception):
    """Something that this machine lacks, or a command of the set-up that failed."""


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


def clean_environ() -> dict[str, str]:
    # Whatever leads a Python to other packages than those of its own environment must not get in.
    unwanted = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
    return {name: value for name, value in os.environ.items() if name not in unwanted}


def candidates() -> list[Path]:
    names = ["python3", *(f"python3.{minor}" for minor in range(OLDEST_MINOR, 21))]
    # Every folder, not just the first that has the name: a command that fails may hide one that works.
    found = [Path(folder, name) for folder in os.get_exec_path() for name in names]
    for root in dict.fromkeys([os.environ.get("PYENV_ROOT") or "~/.pyenv", "~/.pyenv"]):
        found += sorted(Path(root).expanduser().glob("versions/*/bin/python"))
    return [path for path in dict.fromkeys(found) if path.is_file() and os.access(path, os.X_OK)]


def probe(path: Path) -> Interpreter | str | None:
    """An interpreter that can be used, why it can not, or None where it is simply too old to mention."""
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
    """One interpreter for each minor version, oldest first, and a line on each that was passed over."""
    paths = candidates()
    with ThreadPoolExecutor(8) as pool:
        probed = list(pool.map(probe, paths))
    pairs = zip(paths, probed, strict=True)
    remarks = [f"{path} {answer}" for path, answer in pairs if isinstance(answer, str)]
    best: dict[str, Interpreter] = {}
    # Backwards, so that of several paths to one interpreter the first on PATH stays.
    known = {(i.prefix, i.version): i for i in reversed(probed) if isinstance(i, Interpreter)}
    for interpreter in sorted(known.values(), key=lambda i: (i.is_ready, i.version), reverse=True):
        chosen = best.setdefault(interpreter.minor, interpreter)
        if chosen is not interpreter:
            remarks.append(f"{interpreter.path} ({interpreter.release}) gave way to {chosen.release}")
    return sorted(best.values(), key=lambda i: i.version), remarks


def wanted_minors() -> list[str]:
    return os.environ.get("PYTHONS", "").replace(",", " ").split()


def install_missing(interpreters: list[Interpreter]) -> list[Interpreter]:
    """Installs what Debian keeps in packages of their own, where that may be done; answers who is ready then.

    Raises:
        SetUpError: There is no C compiler.
    """
    wanted = [name for i in interpreters if i.prefix == "/usr" for name in i.missing_packages()]
    if not has_compiler():
        wanted += ["gcc", "libc6-dev"]
    if wanted and shutil.which("apt-get") and os.geteuid() == 0:
        say(f"installing {' '.join(wanted)}")
        apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120"]
        # One package source out of order must not end this: what is really missing, the install will tell.
        subprocess.run([*apt, "update"], stdin=subprocess.DEVNULL, check=False)
        subprocess.run(
            [*apt, "install", "-y", "--no-install-recommends", *wanted],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            check=False,
        )
        found = {i.minor: i for i in find_interpreters()[0]}
        interpreters = [found[i.minor] for i in interpreters]
    if not has_compiler():
        raise SetUpError("there is no C compiler (Debian: apt-get install gcc libc6-dev)")
    return interpreters


def has_compiler() -> bool:
    words = os.environ.get("CC", "").split()[:1]
    return any(shutil.which(name) for name in (*words, "cc", "gcc", "clang"))


def source_files(root: Path) -> dict[str, Path]:
    """Everything that a build reads, by its path below `root`."""
    files = [root / name for name in ("LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py")]
    for path in sorted((root / "src").rglob("*")):
        generated = path.suffix in (".c", ".html") and path.with_suffix(".pyx").exists()
        if generated or path.suffix in (".pyc", ".so") or path.parent.suffix == ".egg-info":
            continue
        files.append(path)
    return {str(path.relative_to(root)): path for path in files if path.is_file()}


def stage_sources(stage: Path) -> None:
    """Brings a copy of the sources up to date, in which one interpreter builds.

    Builds side by side would otherwise share setuptools' folders and corrupt each other's. What was compiled
    stays, so that only what changed is compiled again.
    """
    sources = source_files(ROOT)
    if source_files(stage).keys() - sources.keys():
        # A file that is gone would live on in setuptools' folders and get into the wheel.
        shutil.rmtree(stage)
    for relative, source in sources.items():
        copy = stage / relative
        if not copy.is_file() or copy.read_bytes() != source.read_bytes():
            copy.parent.mkdir(parents=True, exist_ok=True)
            # Without its time: an older file that came back must count as new.
            shutil.copyfile(source, copy)


def digest_sources() -> str:
    digest = hashlib.sha256()
    for relative, source in source_files(ROOT).items():
        content = source.read_bytes()
        digest.update(f"{relative}:{len(content)}:".encode() + content)
    return digest.hexdigest()


def compiler_settings() -> str:
    names = ("CC", "CFLAGS", "LDFLAGS", "SOCKRPC_DEBUG", "SOCKRPC_TRACE")
    return " ".join(f"{name}={os.environ[name]!r}" for name in names if name in os.environ)


def say(text: str) -> None:
    # In one piece, newline included: environments are made side by side.
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def execute(command: list[str]) -> None:
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=clean_environ(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise SetUpError(f"{' '.join(command)} failed:\n{done.stdout.rstrip()}")


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Keeps two commands, run at the same time, from making the same thing."""
    ENVIRONMENTS.mkdir(exist_ok=True)
    with (ENVIRONMENTS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Environment:
    """A virtual environment, and a record of the steps that made it."""

    def __init__(self, interpreter: Interpreter, name: str) -> None:
        if not interpreter.is_ready:
            raise SetUpError(f"{interpreter.path}: {interpreter.complaint()}")
        self.interpreter = interpreter
        self.name = name
        self.folder = ENVIRONMENTS / name
        self.python = self.folder / "bin" / "python"

    def make(self, requirements: list[str], *more: tuple[str, str, Callable[[], None]]) -> None:
        """Does what is not done yet of: the bare environment, the requirements, and `more`.

        A step has a text that stands for its outcome, a text to print, and a function to call. What was done
        before counts as long as that step's outcome, and those of all before it, are still the ones wanted.

        Raises:
            SetUpError: A step failed; the message has its output.
        """
        interpreter = self.interpreter
        venv = [interpreter.path, "-m", "venv", "--clear", str(self.folder)]
        steps: list[tuple[str, str, Callable[[], None]]] = [
            (
                f"{interpreter.prefix} {interpreter.release}",
                f"Python {interpreter.release}",
                lambda: execute(venv),
            ),
            (" ".join(requirements), "requirements", lambda: self.pip("install", "--upgrade", *requirements)),
            *more,
        ]
        stamp = self.folder / "made-by-sockrpc.json"
        with locked(self.name):
            done = json.loads(stamp.read_text()) if stamp.is_file() and self.python.exists() else []
            for index, (outcome, text, action) in enumerate(steps):
                if done[index : index + 1] == [outcome]:
                    continue
                say(f".venv/{self.name}: {text}")
                done = done[:index]
                if self.folder.exists():
                    stamp.write_text(json.dumps(done))
                action()
                done.append(outcome)
                stamp.write_text(json.dumps(done))

    def pip(self, command: str, *arguments: str) -> None:
        execute([str(self.python), "-m", "pip", "--disable-pip-version-check", "-q", command, *arguments])


def read_project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def group_requirements(group: str) -> list[str]:
    """The requirements of a dependency group; pip itself reads them from version 25.1 on only."""
    entries = read_project()["dependency-groups"][group]
    nested = [group_requirements(e["include-group"]) if isinstance(e, dict) else [e] for e in entries]
    return [requirement for requirements in nested for requirement in requirements]


def build_wheel(interpreter: Interpreter) -> Path:
    """The wheel of the present sources, built at most once for all environments of an interpreter."""
    name = f"build-{interpreter.minor}"
    builder = Environment(interpreter, name)
    builder.make(read_project()["build-system"]["requires"])
    stage, wheels = ROOT / "build" / "stage" / name, ROOT / "build" / "wheels" / name
    stamp = wheels / "digest"
    tools = f"{interpreter.prefix} {interpreter.release} {compiler_settings()}"
    digest = digest_sources()
    with locked(f"{name}-wheel"):
        old_tools, _, old_digest = stamp.read_text().partition("\n") if stamp.is_file() else ("", "", "")
        if (old_tools, old_digest) != (tools, digest):
            say(f"compiling sockrpc for Python {interpreter.release}")
            shutil.rmtree(wheels, ignore_errors=True)
            if old_tools != tools:
                shutil.rmtree(stage, ignore_errors=True)
            stage_sources(stage)
            # Without isolation: all of Cython is new in a fresh environment, so it would translate all again.
            builder.pip("wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", str(wheels), str(stage))
            stamp.write_text(f"{tools}\n{digest}")
    return next(wheels.glob("*.whl"))


def make_environment(
    interpreter: Interpreter, name: str, groups: list[str], *, package: bool = True, editable: bool = False
) -> Path:
    """Brings the environment up to date, doing only what is left to do, and returns its Python.

    Raises:
        SetUpError: A step failed, or the interpreter lacks what it takes; the message says what.
    """
    environment = Environment(interpreter, name)
    requirements = [requirement for group in groups for requirement in group_requirements(group)]

    def install() -> None:
        source = (
            ["--no-build-isolation", "--editable", str(ROOT)] if editable else [str(build_wheel(interpreter))]
        )
        environment.pip("install", "--force-reinstall", "--no-deps", *source)

    if package:
        requirements += read_project()["project"]["dependencies"]
        environment.make(requirements, (f"{compiler_settings()} {digest_sources()}", "sockrpc", install))
    else:
        environment.make(requirements)
    return environment.python


def choose_interpreter() -> Interpreter:
    """The newest interpreter that is released and wanted.

    Raises:
        SetUpError: There is none, or it lacks what it takes.
    """
    minors = wanted_minors()
    found = [i for i in find_interpreters()[0] if not minors or i.minor in minors]
    if not found:
        raise SetUpError(f"no CPython {' or '.join(minors) or '>= 3.11'} was found")
    best = max(found, key=lambda i: (i.is_final, i.is_ready, i.version))
    return install_missing([best])[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("command", metavar="COMMAND", nargs="+")
    parser.add_argument("--group", action="append", default=[], help="a dependency group of pyproject.toml")
    parser.add_argument("--no-package", action="store_true", help="only the groups, not the package itself")
    parser.add_argument("--editable", action="store_true", help="build and import in the source tree")
    options = parser.parse_args()
    try:
        interpreter = choose_interpreter()
        name = options.name.format(minor=interpreter.minor)
        python = make_environment(
            interpreter, name, options.group, package=not options.no_package, editable=options.editable
        )
    except SetUpError as error:
        sys.exit(f"error: {error}")
    environ = clean_environ()
    environ["VIRTUAL_ENV"] = str(python.parent.parent)
    environ["PATH"] = f"{python.parent}{os.pathsep}{environ.get('PATH', os.defpath)}"
    os.chdir(ROOT)
    # exec, so that a Ctrl-C in the terminal and the exit code belong to the command alone.
    os.execvpe(options.command[0], options.command, environ)


if __name__ == "__main__":
    main()
