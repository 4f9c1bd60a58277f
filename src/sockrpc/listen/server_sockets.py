"""The listening sockets of a server, opened, and closed such that no client already connected is refused."""

from __future__ import annotations

import asyncio
import ctypes
import functools
import logging
import os
import socket as socket_module
import ssl as ssl_module
import struct
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sockrpc.errors import UsageError
from sockrpc.listen.acceptor import Acceptor, serve_line
from sockrpc.listen.unix import AF_UNIX, SocketFile, remove_stale_socket

__all__ = ["Address", "Queue", "ServerSockets", "listening_url", "tls_options"]

LOG = logging.getLogger("sockrpc.server")

SO_REUSEPORT = getattr(socket_module, "SO_REUSEPORT", None)

# The loop of Windows has no add_reader, and descriptors do not run out there.
OWN_ACCEPTOR = sys.platform != "win32"

# Seconds for TCP handshakes under way to complete before a shared port is left: a few round trips across the
# world.
HANDSHAKES_UNDER_WAY = 0.5

# TLS itself sets no limit: the connection watches its own end, and gives a reader that makes progress all the
# time it needs, and `close_timeout` to one that does not.
TLS_SHUTDOWN_SECONDS = 1e6

# Linux can hand the queue of a closed listener to others of its port (since 5.14, off by default).
TCP_MIGRATE_REQ = Path("/proc/sys/net/ipv4/tcp_migrate_req")

# asm-generic/socket.h has this number; systems with another one refuse it, which costs only the handshakes
# under way.
SO_ATTACH_FILTER = 26

# A filter in classic BPF (linux/filter.h) over the TCP header, which drops new connections (SYN without ACK).
NO_NEW_CONNECTIONS = (
    (0x30, 0, 0, 13),  # load the byte of the flags
    (0x54, 0, 0, 0x12),  # select SYN and ACK
    (0x15, 0, 1, 0x02),  # test for SYN alone
    (0x06, 0, 0, 0),  # drop it
    (0x06, 0, 0, 0xFFFF_FFFF),
)

MakeProtocol = Callable[..., asyncio.BaseProtocol]
Keep = Callable[["asyncio.Task[None]"], None]
Listen = Callable[[], Awaitable[asyncio.AbstractServer]]
Queue = Literal["ours", "theirs"]


class Address(NamedTuple):
    """The address to listen on, and its options.

    `uds` and `sockets` replace host and port; `tls` has the TLS keywords of the loop's methods;
    `max_handshakes` limits concurrent TLS handshakes.
    """

    host: str | None
    port: int | None
    uds: str | None
    sockets: tuple[socket_module.socket, ...]
    backlog: int
    reuse_port: bool | None
    tls: dict[str, Any]
    max_handshakes: int


class ServerSockets:
    """The listening sockets of one server.

    Args:
        address: The address to listen on.
        make_protocol: Makes the protocol of each connection; True for one that has to be refused.
        keep: Owns the tasks that admit the last connections.
        refused: Called with the reason if connections cannot be accepted.
    """

    def __init__(
        self, address: Address, make_protocol: MakeProtocol, keep: Keep, refused: Callable[[str], None]
    ) -> None:
        self.sockets: tuple[Any, ...] = ()
        self._address = address
        self._make_protocol = make_protocol
        self._keep = keep
        self._refused = refused
        self._listeners: list[asyncio.AbstractServer | Acceptor] = []
        self._socket_file: SocketFile | None = None

    async def open(self) -> None:
        """Listen on all sockets or on none.

        Raises:
            OSError: The server cannot listen on the address.
        """
        try:
            for listen in self._ways():
                self._listeners.append(self._accepting(await listen()))
        except BaseException:
            self._close()
            raise
        self.sockets = tuple(
            each for listener in self._listeners for each in getattr(listener, "sockets", ())
        )
        if self._address.uds is not None:
            self._socket_file = SocketFile(self._address.uds)

    def _accepting(self, server: asyncio.AbstractServer) -> asyncio.AbstractServer | Acceptor:
        address = self._address
        if OWN_ACCEPTOR:
            return Acceptor(
                server,
                address.backlog,
                self._make_protocol,
                address.tls,
                self._refused,
                address.max_handshakes,
            )
        return server

    def _ways(self) -> Iterator[Listen]:
        loop = asyncio.get_running_loop()
        address = self._address
        common: dict[str, Any] = {
            "backlog": address.backlog,
            "start_serving": not OWN_ACCEPTOR,
            **address.tls,
        }
        tcp = functools.partial(loop.create_server, self._make_protocol, **common)
        if address.uds is None and not address.sockets:
            yield functools.partial(tcp, address.host, address.port, reuse_port=address.reuse_port)
            return
        # The file belongs to us, or to the process that handed the socket over; never to the loop.
        kept: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
        unix = functools.partial(loop.create_unix_server, self._make_protocol, **common, **kept)
        if address.uds is not None:
            if AF_UNIX is None:
                raise UsageError("this system has no unix sockets: `uds` cannot be used")
            remove_stale_socket(address.uds)
            yield functools.partial(unix, address.uds)
        for each in address.sockets:
            # uvloop ignores a failure to listen.
            each.listen(address.backlog)
            yield functools.partial(unix if each.family == AF_UNIX else tcp, sock=each)

    def stop(self, queue: Queue | None = None) -> asyncio.Task[None] | None:
        """Stop listening, but admit clients already connected; returns the task that does so, or None.

        Args:
            queue: The fate of the queue if other processes hold the same sockets: "ours" is admitted, as all
                of them stop; "theirs" is left to them. By default the queue of inherited sockets is theirs,
                unless the port is shared.

        If others share the port, the system has already chosen this listener for some clients whose handshake
        is under way. From here on new connections are dropped, so that their retry, a second later, reaches
        the others, and handshakes under way get time to complete.
        """
        later = None
        filtered = [
            drop_new_connections(each) for each in self.sockets if queue is None and shares_its_port(each)
        ]
        if any(filtered):
            later = asyncio.get_running_loop().create_task(self._stop_later())
            self._keep(later)
        else:
            if queue != "theirs":
                self._let_in_queued(queue == "ours")
            self._close()
        self.sockets = ()
        return later

    async def _stop_later(self) -> None:
        hurried = True
        try:
            await asyncio.sleep(HANDSHAKES_UNDER_WAY)
            hurried = False
        finally:
            if not hurried:
                self._let_in_queued()
            self._close()

    def _close(self) -> None:
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.close()
        if self._socket_file is not None:
            self._socket_file.remove()

    def _let_in_queued(self, is_ours: bool = False) -> None:
        """Accept the connections that the system still queues; otherwise it would reset each of them."""
        for listener in self._listeners:
            for each in getattr(listener, "sockets", ()):
                # A socket that was handed over continues elsewhere, with its queue.
                if is_ours or not self._address.sockets or shares_its_port(each):
                    for connection in accept_all(each, self._address.backlog):
                        self._keep(asyncio.get_running_loop().create_task(self._let_in(connection)))

    async def _let_in(self, connection: socket_module.socket) -> None:
        await serve_line(asyncio.get_running_loop(), self._make_protocol, connection, self._address.tls)


def tls_options(context: ssl_module.SSLContext | None, handshake_timeout: float) -> dict[str, Any]:
    """Return the TLS keywords for the loop's methods, which accept time-outs only with a context."""
    if context is None:
        return {}
    return {
        "ssl": context,
        "ssl_handshake_timeout": handshake_timeout,
        "ssl_shutdown_timeout": TLS_SHUTDOWN_SECONDS,
    }


def accept_all(listening: Any, at_most: int) -> list[socket_module.socket]:
    """Return the connections that the system queues for a listening socket, at most its backlog."""
    accepted: list[socket_module.socket] = []
    # Use a duplicate descriptor, because a loop's sockets do not accept.
    with socket_module.socket(fileno=os.dup(listening.fileno())) as acceptor:
        acceptor.setblocking(False)
        while len(accepted) <= at_most:
            try:
                connection, _ = acceptor.accept()
            except ConnectionAbortedError:
                continue
            except OSError:
                # The queue is empty, or no descriptor is left.
                break
            connection.setblocking(False)
            accepted.append(connection)
    return accepted


def shares_its_port(listening: Any) -> bool:
    """True if other sockets may listen on the same port (SO_REUSEPORT)."""
    if SO_REUSEPORT is None or listening.family == AF_UNIX:
        return False
    return bool(listening.getsockopt(socket_module.SOL_SOCKET, SO_REUSEPORT))


def drop_new_connections(listening: Any) -> bool:
    """Drop new connections; False if that is impossible, or the system handles them better."""
    if sys.platform != "linux" or migrates():
        return False
    code = b"".join(struct.pack("=HBBI", *each) for each in NO_NEW_CONNECTIONS)
    program = ctypes.create_string_buffer(code)
    # struct sock_fprog
    described = struct.pack("HP", len(NO_NEW_CONNECTIONS), ctypes.addressof(program))
    try:
        listening.setsockopt(socket_module.SOL_SOCKET, SO_ATTACH_FILTER, described)
    except OSError as error:
        LOG.debug("no filter for %r: %s", listening, error)
        return False
    return True


def migrates() -> bool:
    """True if the system hands the queue of a closed listener to the others of its port."""
    try:
        return TCP_MIGRATE_REQ.read_text().strip() == "1"
    except OSError:
        return False


def listening_url(address: Any, scheme: str) -> str:
    """Return the address that a server listens on, as a clickable URL where possible."""
    if isinstance(address, bytes):
        return "unix:@" + os.fsdecode(address[1:])
    if isinstance(address, str):
        return f"unix:{address}"
    host, port = address[:2]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/"
