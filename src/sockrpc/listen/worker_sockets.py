"""The listening sockets of the workers of one server, which the supervisor binds once and holds throughout.

On Linux each worker has a listener of its own on the port (SO_REUSEPORT), and the system distributes
connections evenly among them. The supervisor holds every listener too, so that the queue of a worker
that dies waits for its successor and is not reset. Elsewhere SO_REUSEPORT does not distribute
(the last listener gets everything), so all workers accept from one listener, as they do with a
unix socket and with inherited sockets.
"""

from __future__ import annotations

import os
import socket as socket_module
import sys
from collections.abc import Sequence
from typing import Any

from sockrpc.errors import UsageError
from sockrpc.listen.unix import AF_UNIX, SocketFile, remove_stale_socket

__all__ = ["SHARES_OUT", "WorkerSockets"]

SO_REUSEPORT: Any = getattr(socket_module, "SO_REUSEPORT", None)

# FreeBSD has SO_REUSEPORT_LB, which Python does not know before 3.14.
SHARES_OUT = sys.platform == "linux"


class WorkerSockets:
    """The sockets of all workers of one server.

    Args:
        host: The address, used with `port`; None for all.
        port: The TCP port; 0 for any free one, the same for all workers.
        uds: The path or the abstract name of a unix socket, in place of a port.
        sockets: Bound sockets, in place of a port.
        reuse_port: Let other servers listen on the same port too.
        own_listeners: Give each worker a listener of its own; by default only where that distributes
            connections.

    Attributes:
        is_ours: True if no other process holds the sockets, so that a stop has to admit their queues.

    Raises:
        OSError: The server cannot listen on the address.
        UsageError: This system has no such sockets.
    """

    def __init__(
        self,
        host: str | None,
        port: int | None,
        uds: str | None,
        sockets: Sequence[socket_module.socket],
        *,
        reuse_port: bool = False,
        own_listeners: bool = SHARES_OUT,
    ) -> None:
        if (uds is not None and AF_UNIX is None) or (reuse_port and SO_REUSEPORT is None):
            raise UsageError(f"{sys.platform} has no {'unix sockets' if uds is not None else 'SO_REUSEPORT'}")
        self.is_ours = not sockets and not reuse_port
        self._own_listeners = own_listeners and port is not None
        self._shared: list[socket_module.socket] = list(sockets)
        self._of_slots: dict[int, list[socket_module.socket]] = {}
        self._socket_file: SocketFile | None = None
        try:
            if uds is not None:
                self._shared.append(self._bind_unix(uds))
            elif port is not None:
                # If each worker has its own listener, these hold the port and never listen.
                self._bind_tcp(host, port, reuse_port)
        except BaseException:
            self.close()
            raise

    def sockets(self, slot: int) -> list[socket_module.socket]:
        """Return the sockets for the worker of this slot: its predecessor's, if they are still held."""
        if not self._own_listeners:
            return self._shared
        if slot not in self._of_slots:
            self._of_slots[slot] = [listener_beside(each) for each in self._shared]
        return self._of_slots[slot]

    def release(self, slot: int) -> None:
        """Release the slot's own listeners, so that new connections go to the others."""
        for each in self._of_slots.pop(slot, []):
            each.close()

    def close(self) -> None:
        """Release all sockets, and remove the file of a unix socket that was made here."""
        self.remove_socket_file()
        for slot in list(self._of_slots):
            self.release(slot)
        for each in self._shared:
            each.close()
        self._shared = []

    def remove_socket_file(self) -> None:
        """Remove the file, so that no client finds the unix socket any more."""
        if self._socket_file is not None:
            self._socket_file.remove()

    def _bind_unix(self, path: str) -> socket_module.socket:
        remove_stale_socket(path)
        assert AF_UNIX is not None
        made = socket_module.socket(AF_UNIX)
        try:
            made.bind(path)
        except BaseException:
            made.close()
            raise
        self._socket_file = SocketFile(path)
        return made

    def _bind_tcp(self, host: str | None, port: int, reuse_port: bool) -> None:
        found = socket_module.getaddrinfo(
            host or None, port, type=socket_module.SOCK_STREAM, flags=socket_module.AI_PASSIVE
        )
        # A name may resolve to the same address twice.
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            made = socket_module.socket(family, socket_module.SOCK_STREAM)
            self._shared.append(made)
            if reuse_port:
                made.setsockopt(socket_module.SOL_SOCKET, SO_REUSEPORT, 1)
            bind(made, (address[0], port, *address[2:]))
            if self._own_listeners:
                # Set it only after bind, which has to fail if another server listens there.
                made.setsockopt(socket_module.SOL_SOCKET, SO_REUSEPORT, 1)
            # All addresses use the port that the system chose for the first.
            port = made.getsockname()[1]


def listener_beside(bound: socket_module.socket) -> socket_module.socket:
    """Return one more socket on the same address (SO_REUSEPORT)."""
    made = socket_module.socket(bound.family, bound.type)
    try:
        made.setsockopt(socket_module.SOL_SOCKET, SO_REUSEPORT, 1)
        bind(made, bound.getsockname())
    except BaseException:
        made.close()
        raise
    return made


def bind(made: socket_module.socket, address: tuple[object, ...]) -> None:
    """Bind with the same options as the event loops."""
    if os.name == "posix":
        made.setsockopt(socket_module.SOL_SOCKET, socket_module.SO_REUSEADDR, 1)
    if made.family == socket_module.AF_INET6:
        made.setsockopt(socket_module.IPPROTO_IPV6, socket_module.IPV6_V6ONLY, 1)
    try:
        made.bind(address)
    except OSError as error:
        text = f"error while attempting to bind on address {address!r}: {error.strerror}"
        raise OSError(error.errno, text) from None
