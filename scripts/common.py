"""What all the scripts here need."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class SetUpError(Exception):
    """Something that this machine lacks, or a command of the set-up that failed."""


def clean_environ() -> dict[str, str]:
    # Whatever leads a Python to other packages than those of its own environment must not get in. Nor must
    # what keeps bytecode from being written: each process would compile all tests anew, for seconds.
    unwanted = {"PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__", "PYTHONDONTWRITEBYTECODE"}
    return {name: value for name, value in os.environ.items() if name not in unwanted}


def say(text: str) -> None:
    # In one piece, newline included: environments are made side by side.
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def output_of(
    command: Sequence[str],
    *,
    what: str = "",
    cwd: Path = ROOT,
    environ: Mapping[str, str] | None = None,
    error: type[Exception] = SetUpError,
) -> str:
    """What a command printed, its standard error included; it must succeed.

    Raises:
        error: It did not; with `what` it was, or the command itself, and what it printed.
    """
    done = subprocess.run(
        command,
        cwd=cwd,
        env=clean_environ() if environ is None else environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise error(f"{what or ' '.join(command)} ended with {done.returncode}:\n{done.stdout.rstrip()}")
    return done.stdout
