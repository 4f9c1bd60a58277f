"""Sets up Autobahn's test-suite, whose only release outside container images needs Python 2.7."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

from common import SetUpError, clean_environ, output_of, say
from environments import ENVIRONMENTS, locked

REQUIREMENT = "autobahntestsuite==0.8.2"
NO_PYTHON = "skipped: no Python 2.7"

# The probe checks for pip, and for everything that its packages need to build and to run.
PROBE = """
import os, sys, sysconfig
import pip, ssl, zlib
has_headers = os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))
raise SystemExit(sys.version_info[:2] != (2, 7) or not has_headers)
"""

# PYTHONPATH would not do: zope's namespace is made by a .pth file.
WSTEST = "import site; site.addsitedir({folder!r}); from autobahntestsuite.wstest import run; run()"


def candidates() -> list[Path]:
    names = ("python2.7", "python2", "python")
    found = [Path(folder, name) for folder in os.get_exec_path() for name in names]
    for root in dict.fromkeys([os.environ.get("PYENV_ROOT") or "~/.pyenv", "~/.pyenv"]):
        found += sorted(Path(root).expanduser().glob("versions/2.7*/bin/python"))
    return [path for path in dict.fromkeys(found) if path.is_file() and os.access(path, os.X_OK)]


def works(path: Path) -> bool:
    """True if it really is Python 2.7: version managers put commands on PATH that fail."""
    try:
        done = subprocess.run(
            [str(path), "-c", PROBE], capture_output=True, timeout=30, check=False, env=clean_environ()
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def provide_wstest() -> str:
    """Return the command that runs wstest, or an empty text without a Python 2.7 for it.

    The environment variable WSTEST overrides it, for example with one that runs a container.

    Raises:
        SetUpError: It could not be installed.
    """
    named = os.environ.get("WSTEST")
    if named:
        if shutil.which(shlex.split(named)[0]) is None:
            raise SetUpError(f"WSTEST is {named!r}, which is no command")
        return named
    python = next((str(path) for path in candidates() if works(path)), None)
    if python is None:
        return ""
    folder = ENVIRONMENTS / "autobahn"
    stamp, outcome = folder / "made-by-sockrpc", f"{python} {REQUIREMENT}"
    with locked("autobahn"):
        if not stamp.is_file() or stamp.read_text() != outcome:
            say(f".venv/autobahn: {REQUIREMENT} on {python}")
            shutil.rmtree(folder, ignore_errors=True)
            pip = [python, "-m", "pip", "--disable-pip-version-check", "-q", "install"]
            output_of([*pip, "--target", str(folder), REQUIREMENT])
            stamp.write_text(outcome)
    return shlex.join([python, "-W", "ignore", "-c", WSTEST.format(folder=str(folder))])
