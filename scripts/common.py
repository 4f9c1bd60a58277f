"""What all the scripts here need."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class SetUpError(Exception):
    """Something that this machine lacks, or a command of the set-up that failed."""


def clean_environ() -> dict[str, str]:
    # Whatever leads a Python to other packages than those of its own environment must not get in.
    unwanted = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
    return {name: value for name, value in os.environ.items() if name not in unwanted}


def say(text: str) -> None:
    # In one piece, newline included: environments are made side by side.
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
