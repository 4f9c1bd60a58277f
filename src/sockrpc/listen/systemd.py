"""What a process manager hands over and wants to be told: systemd's two protocols, and bare descriptors.

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

# What sd_listen_fds_with_names(3) calls a socket that nobody gave a name.
NO_NAME = "unknown"


def systemd_sockets(name: str | None = None) -> list[socket_module.socket]:
    """The listening sockets that systemd has handed to this process, for `sock` of `serve` and `run`.

    They are taken at the first call: the variables are removed from the environment, and the
    descriptors are closed in programs that this one starts. Later calls give the same sockets.

    Args:
        name: Only those of this name (`FileDescriptorName=`, by default the name of the socket unit).

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
    """Name and socket of each that was handed over."""
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
    """The sockets that were handed over, as the command line names them.

    Args:
        names: Each a descriptor's number, "systemd" for all that systemd has handed over, or
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
    """The listening, or at least bound, socket behind an inherited descriptor.

    Raises:
        UsageError: There is none.
    """
    try:
        found = socket_module.socket(fileno=descriptor)
    except (OSError, ValueError) as error:
        raise UsageError(f"descriptor {descriptor} is no socket: {error}") from None
    # What is wrong with it is for whoever handed it over: it stays open.
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
    # Programs that we start are to hold neither the port nor its queue.
    os.set_inheritable(descriptor, False)
    return found


def notify_systemd(state: str) -> None:
    """Tell the service manager, if one wants to know (`Type=notify`): "READY=1", "STOPPING=1".

    Never waits; what can not be told is logged.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address or sys.platform == "win32":
        return
    try:
        with socket_module.socket(socket_module.AF_UNIX, socket_module.SOCK_DGRAM) as line:
            line.setblocking(False)
            # An abstract one is written with an @.
            line.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
    except OSError as error:
        LOG.warning("NOTIFY_SOCKET %r could not be told %s: %s", address, state, error)
