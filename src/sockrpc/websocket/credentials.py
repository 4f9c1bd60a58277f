"""Identification of the process at the other end of a unix socket."""

from __future__ import annotations

import socket
import struct
import sys
from typing import Any, NamedTuple

__all__ = ["PeerCredentials", "peer_credentials"]

# Linux: struct ucred of sys/socket.h.
UCRED = struct.Struct("iII")
# macOS: sys/un.h, and struct xucred of sys/ucred.h, whose first group is the effective one.
SOL_LOCAL = 0
LOCAL_PEERCRED = 1
LOCAL_PEERPID = 2
XUCRED = struct.Struct("IIh16I")


class PeerCredentials(NamedTuple):
    """The process at the other end of a unix socket, as it was when it connected."""

    pid: int
    uid: int
    gid: int


def peer_credentials(line: Any) -> PeerCredentials | None:
    """Return the system's knowledge of the peer; None if this is no unix socket or the system has none.

    Args:
        line: The connected socket, as transports expose it, or None.
    """
    if sys.platform == "win32" or line is None or line.family != socket.AF_UNIX:
        return None
    try:
        if sys.platform == "linux":
            return PeerCredentials(
                *UCRED.unpack(line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size))
            )
        if sys.platform == "darwin":
            (pid,) = struct.unpack("i", line.getsockopt(SOL_LOCAL, LOCAL_PEERPID, 4))
            _, uid, _, gid, *_ = XUCRED.unpack(line.getsockopt(SOL_LOCAL, LOCAL_PEERCRED, XUCRED.size))
            return PeerCredentials(pid, uid, gid)
    except OSError:
        # The peer has gone already.
        pass
    return None
