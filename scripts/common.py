"""Functions shared by the scripts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class SetUpError(Exception):
    """This machine lacks something, or a command of the set-up failed."""


def clean_environ() -> dict[str, str]:
    # Variables that lead a Python to packages outside its environment must not get in. Neither must the one
    # that disables bytecode: each process would then compile all tests again, for seconds.
    unwanted = {"PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__", "PYTHONDONTWRITEBYTECODE"}
    return {name: value for name, value in os.environ.items() if name not in unwanted}


def say(text: str) -> None:
    # Write newline and text at once, because environments are made in parallel.
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
    """Return the output of a command, its standard error included; the command must succeed.

    Raises:
        error: It failed; the message has `what` or the command itself, and the output.
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
