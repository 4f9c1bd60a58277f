"""Support for PyInstaller, cx_Freeze and Nuitka, which freeze programs and have to find the whole package.

They follow the imports of byte code. Most compiled modules are imported only by other compiled modules,
which have none; this module imports each of them in byte code, and what else only they import.
"""

# ruff: noqa: A004, F401

from __future__ import annotations

from pathlib import Path

from sockrpc import _debug, _frames, _settings
from sockrpc.peer import (
    alarms,
    arrivals,
    broadcast,
    call,
    drive,
    gate,
    handler,
    in_flight,
    inbox,
    items,
    names,
    notification,
    options,
    outbox,
    outgoing,
    outgoing_call,
    peer,
    procedure,
    replies,
    service,
    session,
    spawning,
    states,
    streaming,
    subscription,
    table,
    tally,
    thread_generator,
    undo,
    work,
)
from sockrpc.process import system_signals
from sockrpc.websocket import (
    buffers,
    connection,
    input,
    line,
    liveness,
    loop,
    masking,
    messages,
    output,
    parser,
)

__all__ = ["hook_dirs"]


def hook_dirs() -> list[str]:
    """Return the directory of PyInstaller's hook, which lists the files of the package that are not code."""
    return [str(Path(__file__).with_name("pyinstaller"))]
