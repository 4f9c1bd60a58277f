"""Runs the tests under coverage; fails if one fails, or if a line of a .pyx is not executed.

The tracer makes all that is compiled slow. So the files are dealt to several processes, and what adds no line
of a .pyx is left out: processes, of which none but pytest's own is followed, and the second event loop.

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
# One line is there for transports that copy what they write, which those of uvloop do.
UVLOOP = "tests/test_socket.py"
# What counts is the compiled code that users have; the counters are there in debug builds only.
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
