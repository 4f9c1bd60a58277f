"""Runs the tests under coverage; fails if one fails, or if a line of a .pyx is not executed.

The tracer slows the compiled code down. So several processes share the files, and tests that reach no
further line of a .pyx are left out: those of child processes, which are not traced, and the second loop.

Arguments are appended to every pytest command.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from common import ROOT, SetUpError, clean_environ
from environments import choose_interpreter, make_environment
from shares import run_shares

WORK = ROOT / "build" / "cover"
MARKS = "not once and not command"
# A line is only for transports that copy their input, as those of uvloop do.
UVLOOP = "tests/test_socket.py"
# Only the code that users have counts; the counters exist only in debug builds.
COUNTED = ["--include=src/sockrpc/*.pyx,src/sockrpc/*/*.pyx", "--omit=*/_debug.pyx", "--fail-under=100"]


def main() -> int:
    os.environ["SOCKRPC_TRACE"] = "1"
    try:
        python = make_environment(choose_interpreter(), "cover", ["test", "coverage"], editable=True)
    except SetUpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    data = f"--data-file={WORK / 'data'}"

    def coverage(*arguments: str | Path) -> int:
        command = [python, "-m", "coverage", *arguments]
        return subprocess.run(command, cwd=ROOT, env=clean_environ(), check=False).returncode

    command = [str(python), "-m", "coverage", "run", "--parallel-mode", data, "-m", "pytest", *sys.argv[1:]]
    is_good = run_shares("cover", command, MARKS, {"SOCKRPC_LOOPS": "asyncio"}, uvloop=UVLOOP)
    coverage("combine", "--quiet", data, WORK)
    coverage("report", data)
    return 0 if coverage("report", data, *COUNTED) == 0 and is_good else 1


if __name__ == "__main__":
    sys.exit(main())
