"""What PyInstaller, cx_Freeze and Nuitka, which freeze programs, need in order to find all of the package.

They follow the imports of byte code. Most compiled modules are imported by compiled modules only, which
have none; here each is imported where it can be read.
"""

# ruff: noqa: F401

from __future__ import annotations

from pathlib import Path

from sockrpc import _debug, _frames
from sockrpc.peer import (
    broadcast,
    call,
    gate,
    handler,
    in_flight,
    names,
    notification,
    outgoing,
    peer,
    procedure,
    service,
    states,
    subscription,
    table,
    tally,
    undo,
    work,
)
from sockrpc.process import system_signals
from sockrpc.websocket import buffers, connection, liveness, loop, masking, messages, output, parser

__all__ = ["hook_dirs"]


def hook_dirs() -> list[str]:
    """Where PyInstaller finds the hook that says which files, that are no code, belong to the package."""
    return [str(Path(__file__).with_name("pyinstaller"))]
