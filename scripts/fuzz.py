"""Runs the coverage-guided fuzzers: libFuzzer through atheris, on extensions instrumented by clang.

The compiled code reports its coverage and its comparisons to libFuzzer, and ASan and UBSan watch it.
A fuzzer starts from `tests/corpus/TARGET` and the seeds of tests/kit/fuzz_targets.py. Its findings
land in `build/fuzz/TARGET`, and belong in `tests/corpus/TARGET` under a name that says what they show.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from common import ROOT, SetUpError, clean_environ, say
from environments import (
    Environment,
    choose_interpreter,
    digest_sources,
    group_requirements,
    read_project,
    stage_sources,
)
from packages import install_packages

BUILD = ROOT / "build" / "fuzz"
IGNORED = ROOT / "scripts" / "fuzz-ignored.txt"
COUNTERS = (
    "-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer "
    f"-fsanitize-ignorelist={IGNORED}"
)
# Options of libFuzzer itself: seconds for one input, and megabytes.
OPTIONS = ["-timeout=30", "-rss_limit_mb=4096", "-max_len=600", "-print_final_stats=1"]


@dataclass
class Outcome:
    """The outcome of one target."""

    target: str
    line: str
    is_good: bool


def find_clang() -> str:
    """Return a clang on PATH, after installing it if that is allowed.

    Raises:
        SetUpError: There is none.
    """
    for attempt in range(2):
        versioned = [f"clang-{version}" for version in range(30, 13, -1)]
        found = next((name for name in ("clang", *versioned) if shutil.which(name)), None)
        if found is not None:
            return found
        if not attempt:
            install_packages(["clang"])
    raise SetUpError("there is no clang (Debian: apt-get install clang)")


def make_fuzzing_environment() -> Path:
    """Make an environment whose sockrpc reports its coverage, and return its Python."""
    clang = find_clang()
    interpreter = choose_interpreter()
    environment = Environment(interpreter, f"fuzz-{interpreter.minor}")
    project = read_project()
    requirements = [*group_requirements("test"), *group_requirements("fuzz")]
    requirements += [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    # This is a debug build, because its assertions are on.
    os.environ |= {"CC": clang, "LDSHARED": f"{clang} -shared", "CFLAGS": COUNTERS, "SOCKRPC_DEBUG": "1"}

    def install() -> None:
        stage = ROOT / "build" / "stage" / environment.name
        stage_sources(stage)
        environment.pip("install", "--force-reinstall", "--no-deps", "--no-build-isolation", str(stage))

    what = f"{clang} {COUNTERS} {digest_sources()}"
    environment.make(requirements, (what, "sockrpc with coverage counters, in some minutes", install))
    return environment.python


def ask(python: Path, expression: str) -> list[str]:
    """Return the words that an expression yields in the fuzzers' environment."""
    code = f"import atheris; from tests.kit.fuzz_targets import *; print(*{expression}, sep='\\n')"
    environ = clean_environ() | sanitized(python)
    done = subprocess.run(
        [str(python), "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SetUpError(f"the fuzzers' environment does not work:\n{done.stderr}")
    return done.stdout.split("\n")[:-1]


def sanitized(python: Path) -> dict[str, str]:
    """Return the variables that a process needs to load the instrumented extensions."""
    (runtime,) = python.parent.parent.glob("lib/python*/site-packages/asan_with_fuzzer.so")
    return {
        "LD_PRELOAD": str(runtime),
        # Memory that an interpreter leaves allocated at its end is no leak of ours.
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        # Python's own allocator would hide the ends of objects from ASan.
        "PYTHONMALLOC": "malloc",
    }


def write_seeds(python: Path) -> None:
    """Write the seeds of all targets below `BUILD`."""
    code = (
        "import sys, pathlib; from tests.kit.fuzz_targets import TARGETS, seeds\n"
        "for target in TARGETS:\n"
        "    folder = pathlib.Path(sys.argv[1], target, 'seeds')\n"
        "    folder.mkdir(parents=True, exist_ok=True)\n"
        "    for i, data in enumerate(seeds(target).values()): (folder / str(i)).write_bytes(data)\n"
    )
    environ = clean_environ() | sanitized(python)
    subprocess.run([str(python), "-c", code, str(BUILD)], cwd=ROOT, env=environ, check=True)


def fuzz(python: Path, target: str, seconds: int, options: list[str]) -> Outcome:
    """Run one target for `seconds`, or until it finds something."""
    folder = BUILD / target
    found, corpus, log = folder / "found", folder / "corpus", folder / "log"
    shutil.rmtree(found, ignore_errors=True)
    for each in (found, corpus):
        each.mkdir(parents=True, exist_ok=True)
    kept = ROOT / "tests" / "corpus" / target
    corpora = [corpus, folder / "seeds", *([kept] if kept.exists() else [])]
    command = [str(python), "-m", "tests.kit.fuzz", target, *OPTIONS, f"-max_total_time={seconds}"]
    command += [f"-artifact_prefix={found}/", *options, *(str(each) for each in corpora)]
    with log.open("wb") as output:
        environ = clean_environ() | sanitized(python)
        code = subprocess.run(
            command,
            cwd=ROOT,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            check=False,
        ).returncode
    text = log.read_text(errors="replace")
    modules = re.search(r"Loaded (\d+) modules +\((\d+) inline 8-bit counters\)", text)
    compiled = len(list((ROOT / "src" / "sockrpc").rglob("*.pyx")))
    coverage = re.findall(r"cov: (\d+)", text)
    runs = re.search(r"stat::number_of_executed_units: *(\d+)", text)
    if modules is None or int(modules[1]) < compiled:
        return Outcome(target, f"the compiled code has no counters: see {log}", False)
    line = f"{runs[1] if runs else '?'} runs, {coverage[-1] if coverage else '?'} places reached"
    artifacts = sorted(found.iterdir())
    if artifacts or code:
        print(text[-6000:], flush=True)
        names = ", ".join(str(path.relative_to(ROOT)) for path in artifacts)
        return Outcome(target, f"{line}; FOUND {names or f'exit code {code}'}", False)
    return Outcome(target, f"{line} of {modules[2]} in the compiled code", True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("targets", metavar="TARGET", nargs="*", help="all, if none is named")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: 60)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="targets at a time")
    parser.add_argument(
        "--option", action="append", default=[], help="an option of libFuzzer, such as -seed=1"
    )
    options = parser.parse_args()
    try:
        python = make_fuzzing_environment()
        targets = ask(python, "TARGETS")
    except SetUpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    unknown = set(options.targets) - set(targets)
    if unknown:
        print(
            f"error: no target {', '.join(sorted(unknown))}; there are {', '.join(targets)}", file=sys.stderr
        )
        return 2
    write_seeds(python)
    chosen = options.targets or targets
    say(f"fuzzing {', '.join(chosen)}: {options.seconds} s each, {options.jobs} at a time")
    with ThreadPoolExecutor(options.jobs) as pool:
        outcomes = list(pool.map(lambda each: fuzz(python, each, options.seconds, options.option), chosen))
    for outcome in outcomes:
        print(f"{outcome.target:<17} {outcome.line}")
    return 0 if all(outcome.is_good for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
