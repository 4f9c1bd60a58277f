"""Runs tests on a build with AddressSanitizer and UndefinedBehaviorSanitizer; any report is a failure.

As a command it runs all tests but those of the clients, of the command line, and the long ones; with
``--quick`` first, the selection for every change. Further arguments go to pytest.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from common import ROOT, SetUpError, clean_environ, say
from environments import choose_interpreter
from interpreters import Interpreter
from shares import PATIENT, run_shares

REPORTS = ROOT / "build" / "sanitize"
# In addition to the tests of each interpreter: those with a run of their own that need nothing more. The
# command line is left out: it is Python code, and other tests have processes that serve, stop and end too.
MARKS = "not once and not command or faults or torture"
# Floods send millions of frames against the clock, for which a sanitized build takes minutes. The others look
# at memory, where a sanitizer keeps freed blocks for a while.
TOO_MUCH = ("tests/hostile/test_floods.py", "tests/torture/test_endings.py")
# Each Python of the environment executes this at its start. The libubsan of gcc leaves `log_path` to libasan
# if that is loaded, and would write to standard error, which may be lost in a child process.
SITE = """\
import ctypes, os; \
path = [o[9:] for o in os.environ.get("UBSAN_OPTIONS", "").split(":") if o.startswith("log_path=")]; \
path and ctypes.CDLL("libubsan.so.1").__sanitizer_set_report_path(path[0].encode())
"""
# The selection for every change: tests of parsing, of dispatching, of streams, and of losses.
SELECTION = [
    "tests/tools/test_sanitizers.py",
    "tests/peer/test_counters.py",
    "tests/test_frames.py",
    "tests/test_frames_v1.py",
    "tests/peer/test_names.py",
    "tests/peer/test_dispatch.py",
    "tests/websocket/test_websocket.py",
    "tests/websocket/test_websocket_faults.py",
    "tests/peer/test_malformed.py",
    "tests/peer/test_malformed_client.py",
    "tests/peer/test_malformed_v1_cuts.py",
    "tests/peer/test_malformed_v1_rows.py",
    "tests/peer/test_v1_model.py",
    "tests/peer/test_v1_callers.py",
    "tests/peer/test_v1_ends.py",
    "tests/peer/test_v1_work.py",
    "tests/peer/test_alarms.py",
    "tests/peer/test_engine.py",
    "tests/peer/test_cancellation.py",
    "tests/peer/test_cancellation_calls.py",
    "tests/peer/test_cancellation_client_loss.py",
    "tests/peer/test_cancellation_loss.py",
    "tests/peer/test_cancellation_streams.py",
    "tests/inside/test_compiled.py",
    "tests/inside/test_in_flight.py",
]


def make_sanitized(interpreter: Interpreter) -> Path:
    """Return the Python of an environment with a sanitized build in it.

    Raises:
        SetUpError: A step failed, or the compiler has no sanitizers.
    """
    # Use a process of its own, because the mode is an environment variable that other builds must not see.
    runtimes()
    done = subprocess.run(
        [sys.executable, "scripts/environments.py", "--group", "test", name_of(interpreter), "--", "true"],
        cwd=ROOT,
        env=clean_environ() | {"SOCKRPC_SANITIZE": "1", "PYTHONS": interpreter.minor},
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        raise SetUpError("the sanitized build failed: its output stands above")
    folder = ROOT / ".venv" / name_of(interpreter)
    (folder / "lib" / f"python{interpreter.minor}" / "site-packages" / "sanitizers.pth").write_text(SITE)
    return folder / "bin" / "python"


def name_of(interpreter: Interpreter) -> str:
    return f"sanitize-{interpreter.minor}"


def runtimes() -> list[str]:
    """Return the runtime libraries of the compiler, which have to be loaded before Python."""
    compiler = (os.environ.get("CC") or "gcc").split()[0]
    found = []
    for name in ("libasan.so", "libubsan.so"):
        done = subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=False
        )
        path = Path(done.stdout.strip())
        if done.returncode or not path.is_absolute():
            raise SetUpError(f"{compiler} has no {name} (Debian: apt-get install gcc)")
        found.append(str(path.resolve()))
    return found


def sanitized_environ() -> dict[str, str]:
    """Return the environment of pytest and of all processes that tests start."""
    log = REPORTS / "report"
    common = f"halt_on_error=1:exitcode=99:log_path={log}"
    return {
        "LD_PRELOAD": ":".join(runtimes()),
        # CPython's allocator for small objects would hide errors in their use.
        "PYTHONMALLOC": "malloc",
        # CPython leaks by design; the debug build's counters assert that we do not
        # (tests/peer/test_counters.py).
        "ASAN_OPTIONS": f"detect_leaks=0:detect_stack_use_after_return=1:strict_string_checks=1:{common}",
        "UBSAN_OPTIONS": f"print_stacktrace=1:{common}",
    }


def clear_reports() -> None:
    shutil.rmtree(REPORTS, ignore_errors=True)
    REPORTS.mkdir(parents=True)


def tell_reports() -> str:
    """Print the reports of all processes; return a complaint, or an empty text."""
    reports = sorted(REPORTS.glob("report.*"))
    for report in reports:
        say(f"\n==== {report.name} ====\n{report.read_text(errors='replace')}")
    return f"{len(reports)} reports of sanitizers" if reports else ""


def main() -> None:
    try:
        python = make_sanitized(choose_interpreter())
        environ = clean_environ() | sanitized_environ()
    except SetUpError as error:
        sys.exit(f"error: {error}")
    clear_reports()
    arguments = sys.argv[1:]
    command = [str(python), "-m", "pytest", "-p", "no:cacheprovider"]
    command += [f"--ignore={file}" for file in TOO_MUCH]
    if arguments[:1] == ["--quick"]:
        # A finding does not depend on what the examples are about, and `make asan` tries all of them.
        command += ["-m", MARKS, "-q", "--hypothesis-profile=short", *SELECTION, *arguments[1:]]
        code = subprocess.run(
            command, cwd=ROOT, env=environ | PATIENT, stdin=subprocess.DEVNULL, check=False
        ).returncode
    else:
        # Tests that judge how long others wait run when nothing else does.
        code = 0 if run_shares("sanitized", [*command, *arguments], MARKS, environ, alone="hostile") else 1
    trouble = tell_reports()
    if trouble:
        sys.exit(trouble)
    sys.exit(code)


if __name__ == "__main__":
    main()
