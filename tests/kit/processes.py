"""What tests of other processes need beside `tests.kit.command`: a port of one's own, and patience."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.kit.command import PATIENCE

ROOT = Path(__file__).resolve().parents[2]

# What a server that was asked to stop (SIGTERM) ends with; Windows only knows how to kill.
STOPPED = 1 if sys.platform == "win32" else 0


def eventually(condition: Callable[[], object]) -> None:
    """Wait until `condition()` holds, which another process brings about."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it has not come true"
        time.sleep(0.01)


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A TCP port for a program that listens on a fixed one."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        if sys.platform != "linux":
            # Only there can a port be listened on while somebody else holds it without doing so.
            holder.close()
        yield port


def is_listening(port: int) -> bool:
    """True if somebody accepts connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def run_program(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; `arguments` are the interpreter's."""
    return subprocess.run(
        [sys.executable, *arguments, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
