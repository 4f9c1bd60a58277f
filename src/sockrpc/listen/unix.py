"""The names of unix sockets: paths, of which the file stays behind, and the abstract names of Linux."""

from __future__ import annotations

import contextlib
import os
import socket as socket_module
import stat
import sys

from sockrpc.errors import UsageError

__all__ = ["AF_UNIX", "SocketFile", "check_uds", "connected", "remove_stale_socket", "typed_uds"]

AF_UNIX: int | None = None
if sys.platform != "win32":
    # The loops of Windows have no unix sockets, whatever its module `socket` has.
    AF_UNIX = socket_module.AF_UNIX

# What begins an abstract name, for the system and where people write it (systemd and ss do so too).
NUL = "\0"
ABSTRACT = "@"


def check_uds(uds: str | bytes | os.PathLike[str] | None) -> str | None:
    """The name of a unix socket as text.

    Raises:
        UsageError: This system has no such names.
    """
    if uds is None:
        return None
    name = os.fsdecode(uds)
    if name in ("", NUL):
        raise UsageError("uds is the path of a unix socket; it is empty")
    if not name.startswith(NUL):
        if NUL in name:
            raise UsageError(f"uds is the path of a unix socket; {name!r} has a NUL in it")
    elif sys.platform != "linux":
        raise UsageError(f"abstract names such as {name!r} are those of Linux; here uds takes a path")
    return name


def typed_uds(text: str | None) -> str | None:
    """The name of a unix socket as it is typed: "@name" stands for an abstract one."""
    return NUL + text[1:] if text is not None and text.startswith(ABSTRACT) else text


def connected(uds: str) -> socket_module.socket:
    """A unix socket that is connected, which takes no time: it stands in the queue of the server or fails.

    Of our own, as uvloop connects to no abstract name.

    Raises:
        OSError: Nobody listens there, or the queue is full.
        UsageError: This system has no unix sockets.
    """
    if AF_UNIX is None:
        raise UsageError("this system has no unix sockets: `uds` can not be used")
    line = socket_module.socket(AF_UNIX)
    try:
        line.setblocking(False)
        line.connect(uds)
    except OSError as error:
        line.close()
        raise OSError(error.errno, error.strerror or str(error), uds) from None
    return line


class SocketFile:
    """The file that a listening unix socket leaves behind, to be removed by who has made it.

    Args:
        path: Of the socket, which listens or is bound. An abstract one has no file.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._inode = 0 if path.startswith(NUL) else os.stat(path).st_ino

    def remove(self) -> None:
        """Nobody finds the socket from here on."""
        inode, self._inode = self._inode, 0
        with contextlib.suppress(FileNotFoundError):
            # Only our own: another server may have taken the path over.
            if inode and os.stat(self._path).st_ino == inode:
                os.unlink(self._path)


def remove_stale_socket(path: str) -> None:
    """Remove a unix socket that nobody listens on any more; refuse to remove anything else.

    Raises:
        OSError: Something else is there, or a server still listens.
    """
    if path.startswith(NUL):
        # Abstract names go with the sockets that have them.
        return
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(f"{path} exists and is not a socket")
    assert AF_UNIX is not None
    with socket_module.socket(AF_UNIX) as probe:
        # Not waited for: a server whose backlog is full is a server.
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass
    raise OSError(f"a server listens on {path} already")
