"""Makes virtual environments with the package in them.

As a command it makes the environment NAME on the newest released interpreter, then becomes COMMAND inside
it. The text ``{minor}`` in NAME stands for that interpreter's version, as in ``test-{minor}``.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import ROOT, SetUpError, clean_environ, output_of, say
from interpreters import Interpreter, find_interpreters, wanted_minors
from packages import install_missing

ENVIRONMENTS = ROOT / ".venv"


def source_files(root: Path) -> dict[str, Path]:
    """Return every file that a build reads, by its path below `root`."""
    files = [root / name for name in ("LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py")]
    for path in sorted((root / "src").rglob("*")):
        generated = path.suffix in (".c", ".html") and path.with_suffix(".pyx").exists()
        if generated or path.suffix in (".pyc", ".so") or path.parent.suffix == ".egg-info":
            continue
        files.append(path)
    return {str(path.relative_to(root)): path for path in files if path.is_file()}


def stage_sources(stage: Path, root: Path = ROOT) -> None:
    """Update a copy of the sources, in which one interpreter builds.

    Parallel builds would otherwise share setuptools' folders and corrupt each other's. Compiled files stay,
    so that only changed sources are compiled again.
    """
    sources = source_files(root)
    if source_files(stage).keys() - sources.keys():
        # A deleted file would live on in setuptools' folders and get into the wheel.
        shutil.rmtree(stage)
    settings = stage / "pyproject.toml"
    if settings.is_file() and settings.read_bytes() != (root / "pyproject.toml").read_bytes():
        # The same holds for a file that is no longer to be packaged.
        for gathered in stage.glob("build/*/lib*/**/*"):
            if gathered.is_file() and gathered.suffix != ".so":
                gathered.unlink()
    for relative, source in sources.items():
        copy = stage / relative
        if not copy.is_file() or copy.read_bytes() != source.read_bytes():
            copy.parent.mkdir(parents=True, exist_ok=True)
            # Copy without the time: an older file that came back must count as new.
            shutil.copyfile(source, copy)


def digest_sources(root: Path = ROOT) -> str:
    digest = hashlib.sha256()
    for relative, source in source_files(root).items():
        content = source.read_bytes()
        digest.update(f"{relative}:{len(content)}:".encode() + content)
    return digest.hexdigest()


def compiler_settings(*, quick: bool = False) -> str:
    names = (
        "CC",
        "CFLAGS",
        "LDFLAGS",
        "SOCKRPC_DEBUG",
        "SOCKRPC_FREE_THREADED",
        "SOCKRPC_SANITIZE",
        "SOCKRPC_TRACE",
    )
    settings = [f"{name}={os.environ[name]!r}" for name in names if name in os.environ]
    return " ".join([*settings, *(["quick"] if quick else [])])


def build_environ(*, quick: bool = False) -> dict[str, str]:
    """Return the environment of a build, in which caches hold the results of compilers."""
    environ = clean_environ()
    if quick:
        environ["SOCKRPC_QUICK"] = "1"
    # The C that Cython generates is the same for all versions of Python.
    environ["SOCKRPC_CYTHON_CACHE"] = str(ROOT / "build" / "cython-cache")
    if "CC" not in environ and shutil.which("ccache") and shutil.which("gcc"):
        environ["CC"] = "ccache gcc"
    return environ


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Keep two concurrent commands from making the same thing."""
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
        self.stamp = self.folder / "made-by-sockrpc.json"

    def forget(self, steps: int) -> None:
        """Have all steps but the first `steps` done again."""
        if self.stamp.is_file():
            self.stamp.write_text(json.dumps(json.loads(self.stamp.read_text())[:steps]))

    def make(self, requirements: list[str], *more: tuple[str, str, Callable[[], object]]) -> None:
        """Do the missing steps of: the bare environment, the requirements, and `more`.

        A step has a text that stands for its outcome, a text to print, and a function to call. An earlier run
        counts as long as that step's outcome, and those of all steps before it, are still the ones wanted.

        Raises:
            SetUpError: A step failed; the message has its output.
        """
        interpreter = self.interpreter
        venv = [interpreter.path, "-m", "venv", "--clear", str(self.folder)]
        steps: list[tuple[str, str, Callable[[], object]]] = [
            (
                f"{interpreter.prefix} {interpreter.release}",
                f"Python {interpreter.release}",
                lambda: output_of(venv),
            ),
            (" ".join(requirements), "requirements", lambda: self.pip("install", "--upgrade", *requirements)),
            *more,
        ]
        stamp = self.stamp
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

    def pip(self, command: str, *arguments: str, environ: dict[str, str] | None = None) -> None:
        pip = [str(self.python), "-m", "pip", "--disable-pip-version-check", "-q"]
        output_of([*pip, command, *arguments], environ=environ)


def read_project(root: Path = ROOT) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text())


def group_requirements(group: str) -> list[str]:
    """Return the requirements of a dependency group; pip reads them itself only from version 25.1 on."""
    entries = read_project()["dependency-groups"][group]
    nested = [group_requirements(e["include-group"]) if isinstance(e, dict) else [e] for e in entries]
    return [requirement for requirements in nested for requirement in requirements]


def build_wheel(interpreter: Interpreter, root: Path = ROOT, *, quick: bool = False) -> Path:
    """Return the wheel of the sources below `root`, built at most once per interpreter.

    A `quick` one is optimised less than those that are released.
    """
    name = f"build-{interpreter.minor}"
    builder = Environment(interpreter, name)
    builder.make(read_project()["build-system"]["requires"])
    name += "-sanitize" if os.environ.get("SOCKRPC_SANITIZE") else ""
    if root != ROOT:
        name += f"-{root.name}"
    stage, wheels = ROOT / "build" / "stage" / name, ROOT / "build" / "wheels" / name
    stamp = wheels / "digest"
    tools = f"{interpreter.prefix} {interpreter.release} {compiler_settings(quick=quick)}"
    digest = digest_sources(root)
    with locked(f"{name}-wheel"):
        old_tools, _, old_digest = stamp.read_text().partition("\n") if stamp.is_file() else ("", "", "")
        if (old_tools, old_digest) != (tools, digest):
            say(f"compiling {root.name} for Python {interpreter.release}")
            shutil.rmtree(wheels, ignore_errors=True)
            if old_tools != tools:
                shutil.rmtree(stage, ignore_errors=True)
            stage_sources(stage, root)
            # Build one at a time, as each keeps all cores busy; so the first is ready, and tested, sooner.
            with locked("compiling"):
                # Build without isolation: Cython is new in a fresh environment, so it would translate
                # everything again.
                builder.pip(
                    *("wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", str(wheels), str(stage)),
                    environ=build_environ(quick=quick),
                )
            stamp.write_text(f"{tools}\n{digest}")
    return next(wheels.glob("*.whl"))


def make_environment(
    interpreter: Interpreter,
    name: str,
    groups: list[str],
    *,
    package: bool = True,
    editable: bool = False,
    quick: bool = False,
    hashed: Path | None = None,
) -> Path:
    """Bring the environment up to date and return its Python.

    Requirements of the file `hashed` are installed only as the very files that it names.

    Raises:
        SetUpError: A step failed, or the interpreter lacks a requirement; the message says which.
    """
    environment = Environment(interpreter, name)
    requirements = [requirement for group in groups for requirement in group_requirements(group)]

    def install() -> None:
        source = (
            ["--no-build-isolation", "--editable", str(ROOT)]
            if editable
            else [str(build_wheel(interpreter, quick=quick))]
        )
        environment.pip("install", "--force-reinstall", "--no-deps", *source, environ=build_environ())
        if editable:
            owner.parent.mkdir(exist_ok=True)
            owner.write_text(name)

    # Environments that import the source tree share its compiled files, in whatever mode they were built.
    owner = ROOT / "build" / f"in-place-{interpreter.minor}"
    if editable and not (owner.is_file() and owner.read_text() == name):
        environment.forget(2)
    if package:
        requirements += read_project()["project"]["dependencies"]
        environment.make(
            requirements, (f"{compiler_settings(quick=quick)} {digest_sources()}", "sockrpc", install)
        )
    elif hashed:
        arguments = ("--no-deps", "--require-hashes", "--requirement", str(hashed))
        step = (hashed.read_text(), hashed.name, lambda: environment.pip("install", *arguments))
        environment.make(requirements, step)
    else:
        environment.make(requirements)
    return environment.python


def choose_interpreter() -> Interpreter:
    """Return the newest interpreter that is released and wanted.

    Raises:
        SetUpError: There is none, or it lacks a requirement.
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
    parser.add_argument("--hashed", type=Path, help="with --no-package: a file of requirements with hashes")
    parser.add_argument("--editable", action="store_true", help="build and import in the source tree")
    options = parser.parse_args()
    try:
        interpreter = choose_interpreter()
        name = options.name.format(minor=interpreter.minor)
        python = make_environment(
            interpreter,
            name,
            options.group,
            package=not options.no_package,
            editable=options.editable,
            hashed=options.hashed,
        )
    except SetUpError as error:
        sys.exit(f"error: {error}")
    environ = clean_environ()
    environ["VIRTUAL_ENV"] = str(python.parent.parent)
    environ["PATH"] = f"{python.parent}{os.pathsep}{environ.get('PATH', os.defpath)}"
    os.chdir(ROOT)
    # Use exec, so that a Ctrl-C in the terminal and the exit code belong to the command alone.
    os.execvpe(options.command[0], options.command, environ)


if __name__ == "__main__":
    main()
