"""What PyInstaller, cx_Freeze and Nuitka, which freeze programs, need in order to find all of the package.

They follow the imports of byte code. Most compiled modules are imported by compiled modules only, which
have none; here each is imported where it can be read.
"""

from __future__ import annotations

from pathlib import Path

from sockrpc import (  # noqa: F401
    _broadcast,
    _calling,
    _calls,
    _connection,
    _debug,
    _dispatch,
    _frames,
    _gate,
    _keepalive,
    _loop,
    _masking,
    _memory,
    _messages,
    _names,
    _notifications,
    _output,
    _service,
    _serving,
    _signals,
    _statistics,
    _undo,
    _websocket,
    _work,
)

__all__ = ["hook_dirs"]


def hook_dirs() -> list[str]:
    """Where PyInstaller finds the hook that says which files, that are no code, belong to the package."""
    return [str(Path(__file__).with_name("pyinstaller"))]
