"""Proves, as far as one machine can, that the source distribution and its wheels are what users should get.

The steps, each of which can be run by itself on what those before it left in ``dist/``:
    sdist    checked by twine and check-manifest; has all of the repository; from itself, the same files again
    wheel    from the source distribution, on every interpreter; repaired by auditwheel, whose policy must be
             the expected one; stripped, nothing missing, nothing too much; made twice, the same bytes
    install  into an empty environment, used, and uninstalled, which leaves nothing
    suite    the tests of the source distribution against the installed wheel
    cross    a build for aarch64 by zig, run under qemu where that can be had (Linux)
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import cross
from common import ROOT, SetUpError, clean_environ, output_of, say
from distributions import Wrong, check_sdist, check_wheel
from environments import (
    ENVIRONMENTS,
    Environment,
    group_requirements,
    make_environment,
    read_project,
)
from interpreters import Interpreter, find_interpreters, wanted_minors
from packages import install_missing

DIST = ROOT / "dist"
WORK = ROOT / "build" / "distributions"
# The version of the C library that the compiled code needs. A higher one would exclude promised systems.
POLICY = "manylinux_2_17"


class Tools:
    """The environment with the tools, and the epoch that all builds share."""

    def __init__(self, interpreter: Interpreter) -> None:
        self.python = make_environment(interpreter, f"wheels-{interpreter.minor}", ["wheels"], package=False)
        when = subprocess.run(
            ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"], capture_output=True, text=True, check=False
        )
        # Without a repository there is no such time; any fixed one will do.
        os.environ["SOURCE_DATE_EPOCH"] = when.stdout.strip() or "1700000000"

    def run(self, *command: str, cwd: Path = ROOT) -> str:
        """Return the output of a tool, which must succeed."""
        environ = clean_environ()
        environ["PATH"] = f"{self.python.parent}{os.pathsep}{environ.get('PATH', os.defpath)}"
        return output_of(
            [str(self.python), "-m", *command], what=" ".join(command), cwd=cwd, environ=environ, error=Wrong
        )


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def the_one(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise SetUpError(f"{folder} has {len(found)} of {pattern}: run the steps before this one")
    return found[0]


def unpacked(name: str) -> Path:
    """Return a folder of its own with the unpacked source distribution."""
    folder = fresh(WORK / name)
    with tarfile.open(the_one(DIST, "sockrpc-*.tar.gz")) as archive:
        archive.extractall(folder, filter="data")
    return next(folder.iterdir())


def same_bytes(first: Path, second: Path) -> None:
    if first.name != second.name or first.read_bytes() != second.read_bytes():
        raise Wrong(f"made again, {first.name} is another: {first} and {second}")


def prove_sdist(tools: Tools) -> str:
    fresh(DIST)
    tools.run("build", "--sdist", "--no-isolation", "--outdir", str(DIST))
    sdist = the_one(DIST, "*.tar.gz")
    tools.run("twine", "check", "--strict", str(sdist))
    if (ROOT / ".git").exists():
        tools.run("check_manifest")
        check_sdist(sdist)
    again = fresh(WORK / "sdist-again")
    tools.run("build", "--sdist", "--no-isolation", "--outdir", str(again), str(unpacked("sdist")))
    with tarfile.open(sdist) as one, tarfile.open(the_one(again, "*.tar.gz")) as other:
        if sorted(one.getnames()) != sorted(other.getnames()):
            raise Wrong("a source distribution made from the source distribution has other files")
    return sdist.name


def compile_wheel(interpreter: Interpreter, name: str, tools: Tools) -> Path:
    """Return the wheel of one interpreter, built from the source distribution and repaired by auditwheel."""
    source = unpacked(name)
    raw, repaired = fresh(WORK / f"{name}-raw"), fresh(WORK / f"{name}-wheel")
    builder = Environment(interpreter, f"build-{interpreter.minor}")
    builder.make(read_project()["build-system"]["requires"])
    builder.pip("wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", str(raw), str(source))
    wheel = the_one(raw, "*.whl")
    if sys.platform != "linux":
        return wheel
    tools.run("auditwheel", "repair", "--strip", "--wheel-dir", str(repaired), str(wheel))
    return the_one(repaired, "*.whl")


def prove_wheel(interpreter: Interpreter, tools: Tools, *, twice: bool) -> str:
    minor = interpreter.minor
    wheel = compile_wheel(interpreter, f"first-{minor}", tools)
    check_wheel(wheel, the_one(WORK / f"first-{minor}", "*"))
    if sys.platform == "linux" and not re.search(rf"[-.]{POLICY}_", wheel.name):
        raise Wrong(f"{wheel.name} is not of the policy {POLICY}")
    tools.run("check_wheel_contents", str(wheel))
    tools.run("twine", "check", "--strict", str(wheel))
    if twice:
        same_bytes(wheel, compile_wheel(interpreter, f"second-{minor}", tools))
    for old in DIST.glob(f"*-{tag(interpreter)}-*.whl"):
        old.unlink()
    shutil.copyfile(wheel, DIST / wheel.name)
    return wheel.name + (" (twice the same bytes)" if twice else "")


def tag(interpreter: Interpreter) -> str:
    return f"cp{interpreter.minor.replace('.', '')}"


def files_below(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


def prove_install(interpreter: Interpreter) -> str:
    wheel = the_one(DIST, f"*-{tag(interpreter)}-*.whl")
    name = f"installed-{interpreter.minor}"
    shutil.rmtree(ENVIRONMENTS / name, ignore_errors=True)
    environment = Environment(interpreter, name)
    environment.make(read_project()["project"]["dependencies"])
    before = files_below(environment.folder)
    environment.pip("install", "--no-deps", "--no-index", str(wheel))
    command = environment.folder / "bin" / "sockrpc"
    output_of([str(command), "--help"])
    check = "import sys, sockrpc; sys.exit('site-packages' not in sockrpc.__file__)"
    output_of([str(environment.python), "-I", "-c", check])
    environment.pip("uninstall", "--yes", "sockrpc")
    left = files_below(environment.folder) ^ before
    if left or command.exists():
        raise Wrong(f"installed and uninstalled, these are left or gone: {sorted(left)}")
    return f"{interpreter.release}: used, uninstalled, nothing is left"


def prove_suite(interpreter: Interpreter) -> str:
    source = unpacked(f"suite-{interpreter.minor}")
    wheel = the_one(DIST, f"*-{tag(interpreter)}-*.whl")
    environment = Environment(interpreter, f"suite-{interpreter.minor}")
    environment.make(group_requirements("test") + read_project()["project"]["dependencies"])
    environment.pip("install", "--force-reinstall", "--no-deps", str(wheel))
    told = output_of(
        [str(environment.python), "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        what=f"the tests on {interpreter.release}",
        cwd=source,
        environ={**clean_environ(), "SOCKRPC_INSTALLED": "1"},
        error=Wrong,
    )
    return f"{interpreter.release}: {told.rstrip().splitlines()[-1]}"


def chosen_interpreters() -> list[Interpreter]:
    minors = wanted_minors()
    found = [i for i in find_interpreters()[0] if not minors or i.minor in minors]
    if not found:
        raise SetUpError("no interpreter was found that is wanted")
    return [i for i in install_missing(found) if i.is_ready]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    steps = ("sdist", "wheel", "install", "suite", "cross")
    parser.add_argument("steps", metavar="STEP", nargs="*", choices=[[], *steps], default=[])
    options = parser.parse_args()
    wanted = options.steps or steps
    try:
        interpreters = chosen_interpreters()
        newest = max(interpreters, key=lambda i: (i.is_final, i.version))
        tools = Tools(newest)
        tasks: list[tuple[str, Callable[[], str]]] = [("sdist", lambda: prove_sdist(tools))]
        for each in interpreters:
            twice = each is newest
            tasks += [
                ("wheel", lambda each=each, twice=twice: prove_wheel(each, tools, twice=twice)),  # type: ignore[misc]
                ("install", lambda each=each: prove_install(each)),  # type: ignore[misc]
                ("suite", lambda each=each: prove_suite(each)),  # type: ignore[misc]
            ]
        tasks.append(("cross", lambda: cross.prove(unpacked("cross"), newest)))
        for step in steps:
            for name, task in tasks:
                if name == step and step in wanted:
                    say(f"{step:<8} {task()}")
    except (SetUpError, Wrong) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
