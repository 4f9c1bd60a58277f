"""Sockets and notifications between a process manager and us: systemd's two protocols, and bare descriptors.

sd_listen_fds(3): the variables LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES, and descriptors from 3 on.
sd_notify(3): datagrams to the unix socket that NOTIFY_SOCKET names.
"""

from __future__ import annotations

import functools
import logging
import os
import socket as socket_module
import sys
from collections.abc import Sequence

from sockrpc.errors import UsageError

__all__ = ["named_sockets", "notify_systemd", "socket_of_descriptor", "systemd_sockets"]

LOG = logging.getLogger("sockrpc.server")

FIRST_DESCRIPTOR = 3

# sd_listen_fds_with_names(3) calls unnamed sockets this.
NO_NAME = "unknown"


def systemd_sockets(name: str | None = None) -> list[socket_module.socket]:
    """Return the listening sockets that systemd passed to this process, for `sock` of `serve` and `run`.

    The first call takes them: it removes the variables from the environment and marks the
    descriptors to be closed in programs that this one starts. Later calls return the same sockets.

    Args:
        name: Return only sockets of this name (`FileDescriptorName=`, by default the name of the socket
            unit).

    Raises:
        UsageError: There is none, or they are for another process.
    """
    handed = inherited()
    found = [each for its_name, each in handed if name is None or its_name == name]
    if not found:
        names = ", ".join(sorted({its_name for its_name, _ in handed}))
        raise UsageError(f"systemd has handed over no socket named {name!r}, only: {names}")
    return found


@functools.cache
def inherited() -> list[tuple[str, socket_module.socket]]:
    """Return name and socket of each that was passed."""
    environ = os.environ
    try:
        process, count = int(environ["LISTEN_PID"]), int(environ["LISTEN_FDS"])
    except KeyError as error:
        text = f"systemd has handed over no socket: {error.args[0]} is not set"
        raise UsageError(text) from None
    except ValueError:
        raise UsageError("LISTEN_PID and LISTEN_FDS are numbers") from None
    if process != os.getpid():
        raise UsageError(
            f"the sockets are for process {process}, and this is {os.getpid()}: a shell in between needs exec"
        )
    if count < 1:
        raise UsageError("systemd has handed over no socket: LISTEN_FDS is 0")
    names = environ["LISTEN_FDNAMES"].split(":") if "LISTEN_FDNAMES" in environ else [NO_NAME] * count
    if len(names) != count:
        raise UsageError("LISTEN_FDNAMES has not as many names as LISTEN_FDS says")
    sockets = [socket_of_descriptor(FIRST_DESCRIPTOR + i) for i in range(count)]
    for variable in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"):
        environ.pop(variable, None)
    return list(zip(names, sockets, strict=True))


def named_sockets(names: Sequence[str]) -> list[socket_module.socket]:
    """Return the passed sockets that the command line names.

    Args:
        names: Each is a descriptor's number, "systemd" for all sockets that systemd passed, or
            "systemd:NAME" for those of a name.

    Raises:
        UsageError: There is no such socket.
    """
    found: list[socket_module.socket] = []
    for each in dict.fromkeys(names):
        manager, colon, name = each.partition(":")
        if manager == "systemd":
            found += systemd_sockets(name if colon else None)
        elif each.isdecimal():
            found.append(socket_of_descriptor(int(each)))
        else:
            raise UsageError(f"a socket is handed over as a number, systemd or systemd:NAME, not {each!r}")
    return found


def socket_of_descriptor(descriptor: int) -> socket_module.socket:
    """Return the listening, or at least bound, socket of an inherited descriptor.

    Raises:
        UsageError: There is none.
    """
    try:
        found = socket_module.socket(fileno=descriptor)
    except (OSError, ValueError) as error:
        raise UsageError(f"descriptor {descriptor} is no socket: {error}") from None
    # The faulty socket belongs to the process that passed it, so it stays open.
    try:
        found.getpeername()
    except OSError:
        pass
    else:
        found.detach()
        raise UsageError(f"descriptor {descriptor} is a connection, not a listening socket (Accept=yes?)")
    if found.type != socket_module.SOCK_STREAM:
        found.detach()
        raise UsageError(f"descriptor {descriptor} is no stream socket")
    # Programs that we start must hold neither the port nor its queue.
    os.set_inheritable(descriptor, False)
    return found


def notify_systemd(state: str) -> None:
    """Notify the service manager, if there is one (`Type=notify`), of "READY=1" or "STOPPING=1".

    Never waits; failures are logged.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address or sys.platform == "win32":
        return
    try:
        with socket_module.socket(socket_module.AF_UNIX, socket_module.SOCK_DGRAM) as line:
            line.setblocking(False)
            # The name of an abstract socket is written with an @.
            line.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
    except OSError as error:
        LOG.warning("NOTIFY_SOCKET %r could not be told %s: %s", address, state, error)
