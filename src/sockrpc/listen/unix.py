"""Names and files of unix sockets: paths, whose files outlive the socket, and the abstract names of Linux."""

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
    # The event loops of Windows have no unix sockets, even if its module `socket` does.
    AF_UNIX = socket_module.AF_UNIX

# The first character of an abstract name, for the system and as people write it (like systemd and ss).
NUL = "\0"
ABSTRACT = "@"


def check_uds(uds: str | bytes | os.PathLike[str] | None) -> str | None:
    """Return the name of a unix socket as text.

    Raises:
        UsageError: The name is not valid on this system.
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
    """Return the name of a unix socket from its typed form, in which "@name" is an abstract name."""
    return NUL + text[1:] if text is not None and text.startswith(ABSTRACT) else text


def connected(uds: str) -> socket_module.socket:
    """Connect a unix socket. This never waits: the connection enters the server's queue at once or fails.

    This does not use the loop, because uvloop connects to no abstract name.

    Raises:
        OSError: No server listens there, or the queue is full.
        UsageError: This system has no unix sockets.
    """
    if AF_UNIX is None:
        raise UsageError("this system has no unix sockets: `uds` cannot be used")
    line = socket_module.socket(AF_UNIX)
    try:
        line.setblocking(False)
        line.connect(uds)
    except OSError as error:
        line.close()
        raise OSError(error.errno, error.strerror or str(error), uds) from None
    return line


class SocketFile:
    """The file of a listening unix socket, which only its creator removes.

    Args:
        path: The path of the socket, which listens or is bound. An abstract name has no file.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._inode = 0 if path.startswith(NUL) else os.stat(path).st_ino

    def remove(self) -> None:
        """Remove the file, so that no client finds the socket any more."""
        inode, self._inode = self._inode, 0
        with contextlib.suppress(FileNotFoundError):
            # Remove only our own file: another server may have taken over the path.
            if inode and os.stat(self._path).st_ino == inode:
                os.unlink(self._path)


def remove_stale_socket(path: str) -> None:
    """Remove the file of a unix socket without a listener; refuse to remove anything else.

    Raises:
        OSError: Another file is there, or a server still listens.
    """
    if path.startswith(NUL):
        # Abstract names vanish with their sockets.
        return
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(f"{path} exists and is not a socket")
    assert AF_UNIX is not None
    with socket_module.socket(AF_UNIX) as probe:
        # Do not wait: a server with a full backlog is still a server.
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass
    raise OSError(f"a server listens on {path} already")
