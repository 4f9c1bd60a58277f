"""Compares the speed of the present sources with that of a revision, both built here in the same way.

Exit codes: 0 ok, 1 slower, 2 used wrongly or something failed, 3 inconclusive; bench/README.md says more.
The measurements stay in build/guard/: time.json, counts.json, summary.md.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from common import ROOT, SetUpError, clean_environ, say
from environments import (
    Environment,
    build_wheel,
    choose_interpreter,
    compiler_settings,
    digest_sources,
    read_project,
    source_files,
)
from interpreters import Interpreter
from packages import provide_valgrind

RESULTS = ROOT / "build" / "guard"
SUITE = ROOT / "bench" / "guard"
# Instruction counts ignore waiting, so only benchmarks without a socket are counted.
COUNTED = ["frames.py", "dispatch.py"]
OK, SLOWER, FAILED, INCONCLUSIVE = 0, 1, 2, 3
# The whole has the first of these outcomes that occurs.
BY_WEIGHT = [FAILED, SLOWER, INCONCLUSIVE, OK]

# For the self-test: useless work for a source of each guarded part, to insert after the given line.
INJECTIONS = [
    (
        "websocket/parser.pyx",
        "            available = self.end - self.cursor\n",
        "            sum(range(4))\n",
    ),
    ("websocket/masking.pyx", "    cdef bytes fresh\n", "    sum(range(8))\n"),
    (
        "peer/arrivals.pyx",
        "            # A 1001 close is on its way, so no new call starts.\n            return 0\n",
        "        sum(range(64))\n",
    ),
    (
        "peer/arrivals.pyx",
        "        # Call.abort (call.pyx) acts on it.\n",
        "        sum(range(2000))\n",
    ),
]
# The self-test has to find these: throughput, and reset-to-abort.
FOUND_BY_TIME = {"parser", "dispatch", "answers_to_ready_made_bytes", "reset_to_abort"}
FOUND_BY_COUNT = {"parser", "encoder", "dispatch", "dispatch_of_resets"}


def git(*arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        raise SetUpError(f"git {' '.join(arguments)}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def extract(revision: str) -> Path:
    """Extract the tree of a revision into a folder of its own.

    A worktree of git would not do: the repository would remember it after `make clean`.
    """
    name = git("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}").decode().strip()
    folder = RESULTS / "base"
    shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(git("archive", name))) as archive:
        archive.extractall(folder, filter="data")
    say(f"base is {name[:12]}")
    return folder


def slowed() -> Path:
    """Make a copy of the sources with useless work in each guarded part.

    Raises:
        SetUpError: A line after which work is to be inserted is gone.
    """
    folder = RESULTS / "slowed"
    shutil.rmtree(folder, ignore_errors=True)
    for relative, source in source_files(ROOT).items():
        (folder / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / relative)
    for name, anchor, work in INJECTIONS:
        path = folder / "src" / "sockrpc" / name
        path.write_text(inject(path.read_text(), anchor, work))
    return folder


def inject(text: str, anchor: str, work: str) -> str:
    if text.count(anchor) != 1:
        raise SetUpError(
            f"where the self-test injects is not there once, but {text.count(anchor)} times:\n{anchor}"
        )
    return text.replace(anchor, anchor + work)


def make_side(interpreter: Interpreter, side: str, root: Path, requirements: list[str]) -> Environment:
    environment = Environment(interpreter, f"guard-{side}-{interpreter.minor}")

    def install() -> None:
        wheel = build_wheel(interpreter, root)
        environment.pip("install", "--force-reinstall", "--no-deps", str(wheel))

    environment.make(requirements, (f"{compiler_settings()} {digest_sources(root)}", "sockrpc", install))
    return environment


def installed(environment: Environment) -> str:
    command = [str(environment.python), "-m", "pip", "list", "--format=freeze", "--exclude", "sockrpc"]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=clean_environ()).stdout


def make_sides(interpreter: Interpreter, base: Path) -> tuple[Path, Path]:
    """Make both environments, with the same packages beside sockrpc, whichever side requires them."""
    both = dict.fromkeys(
        requirement for root in (base, ROOT) for requirement in read_project(root)["project"]["dependencies"]
    )
    sides = [make_side(interpreter, s, root, [*both]) for s, root in (("base", base), ("head", ROOT))]
    if installed(sides[0]) != installed(sides[1]):
        # The environments were made on different days.
        for side in sides:
            shutil.rmtree(side.folder)
        return make_sides(interpreter, base)
    return sides[0].python, sides[1].python


def measure(base: Path, head: Path, what: str, scripts: list[Path], report: str, *more: str) -> int:
    command = [str(head), "-P", "-m", "sockrpc.bench", what, "--base", str(base), "--head", str(head)]
    command += [argument for script in scripts for argument in ("--script", str(script))]
    command += ["--json", str(RESULTS / report), "--markdown", str(RESULTS / "summary.md"), *more]
    return subprocess.run(
        command, cwd=ROOT, env=clean_environ(), stdin=subprocess.DEVNULL, check=False
    ).returncode


def compare(base: Path, head: Path, options: argparse.Namespace) -> dict[str, int]:
    """Return the exit codes of both measurements."""
    (RESULTS / "summary.md").unlink(missing_ok=True)
    only = ["--only", options.only]
    codes = {"time": measure(base, head, "ab", sorted(SUITE.glob("*.py")), "time.json", *only)}
    if not options.no_counts and codes["time"] in BY_WEIGHT[1:]:
        codes["counts"] = measure(
            base, head, "count", [SUITE / name for name in COUNTED], "counts.json", *only
        )
    return codes


def slower(report: str) -> set[str]:
    """Return the benchmarks that a report calls slower."""
    told = json.loads((RESULTS / report).read_text())
    return {name for name, each in told["benchmarks"].items() if each["outcome"] == "slower"}


def selftest(interpreter: Interpreter, options: argparse.Namespace) -> int:
    """Check that equals pass, and that a build with injected work is found in each guarded part."""
    base, head = make_sides(interpreter, ROOT)
    slow = make_side(interpreter, "slowed", slowed(), read_project()["project"]["dependencies"]).python
    say("the sources against themselves:")
    equal = compare(base, head, options)
    say("a build with injected work against the sources:")
    found = compare(base, slow, options)
    missed = {"time": FOUND_BY_TIME - slower("time.json")}
    if not options.no_counts:
        missed["counts"] = FOUND_BY_COUNT - slower("counts.json")
    say(f"equals: {equal} (1 would be wrong); slowed: {found}, missed: {missed}")
    if SLOWER in equal.values() or FAILED in [*equal.values(), *found.values()] or OK in found.values():
        return SLOWER
    if INCONCLUSIVE in found.values():
        return INCONCLUSIVE
    return SLOWER if any(missed.values()) else OK


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", metavar="BASE", nargs="?", help="the revision to compare with")
    parser.add_argument("--selftest", action="store_true", help="find a slowdown that is built in")
    parser.add_argument("--only", default="", metavar="TEXT", help="run benchmarks whose names contain this")
    parser.add_argument("--no-counts", action="store_true", help="do without valgrind")
    options = parser.parse_args()
    if (options.base is None) != options.selftest:
        parser.error("one of BASE and --selftest")
    wrong = [
        name for name in ("SOCKRPC_DEBUG", "SOCKRPC_TRACE") if os.environ.get(name, "0") not in ("", "0")
    ]
    if wrong:
        parser.error(f"{wrong[0]} is set: the speed of such a build means nothing")
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in ("exit-code", "time.json", "counts.json", "summary.md"):
        (RESULTS / name).unlink(missing_ok=True)
    try:
        interpreter = choose_interpreter()
        if not options.no_counts:
            provide_valgrind()
        if options.selftest:
            code = selftest(interpreter, options)
        else:
            codes = compare(*make_sides(interpreter, extract(options.base)), options)
            # Any other exit code of a process is a failure.
            outcomes = [code if code in BY_WEIGHT else FAILED for code in codes.values()]
            code = min(outcomes, key=BY_WEIGHT.index)
    except SetUpError as error:
        print(f"error: {error}", file=sys.stderr)
        code = FAILED
    # make ends with an exit code of its own.
    (RESULTS / "exit-code").write_text(f"{code}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
