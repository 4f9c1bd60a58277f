"""Accepting of connections, which must work even when the process runs out of file descriptors.

The loops' own servers do not survive that: asyncio calls the loop's exception handler once for each
connection that could wait (1,024 times a second), and libuv silently closes all waiting connections and
stops listening if another thread takes the descriptor that it keeps in reserve. So this module accepts
connections itself. It holds a few descriptors in reserve, releases one for each connection that could
not be accepted otherwise, and takes it back when that connection has been refused.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["LAST_DESCRIPTORS", "SPARE_DESCRIPTORS", "Acceptor", "descriptors_for_connections", "serve_line"]

MakeProtocol = Callable[..., asyncio.BaseProtocol]

# Descriptors reserved for everything but connections if max_connections is not given.
RESERVED_DESCRIPTORS = 64

# The number of connections that can be refused at a time when no descriptor is left.
SPARE_DESCRIPTORS = 8

# The system hands out the lowest free descriptor. If that is one of the last ones, new connections are
# refused, and the rest is left to open connections and to the application.
LAST_DESCRIPTORS = 16

# Minimum number of concurrent TLS handshakes. A failed one takes a moment to clean up and must not block
# others.
LEAST_HANDSHAKES = 64

# Connections to accept per iteration of the loop, before other work gets its turn.
ACCEPTED_AT_ONCE = 16

# Seconds to pause after a failure to accept: the listening socket stays readable, and the loop would spin.
PAUSE = 0.25

NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)


class Acceptor:
    """Accepts connections in place of a server of the loop.

    Args:
        server: A server of a loop that has `add_reader`, bound and not serving; the acceptor owns it.
        backlog: The most connections that the system may queue before they are accepted.
        make_protocol: Makes the protocol of a connection; its argument is True if descriptors are short and
            the connection has to be refused.
        tls: The keywords of TLS that `connect_accepted_socket` takes.
        refused: Called with the reason whenever connections are refused or left waiting.
        max_handshakes: The limit of concurrent TLS handshakes, at least LEAST_HANDSHAKES; any more are
            closed.
    """

    def __init__(
        self,
        server: asyncio.AbstractServer,
        backlog: int,
        make_protocol: MakeProtocol,
        tls: dict[str, Any],
        refused: Callable[[str], None],
        max_handshakes: int,
    ) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._make_protocol = make_protocol
        self._tls = tls
        self._refused = refused
        self._max_handshakes = max(max_handshakes, LEAST_HANDSHAKES)
        self._spares: list[int] = []
        self._arriving: set[asyncio.Task[None]] = set()
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}
        # These are duplicates, because the loops' sockets do not accept.
        self.sockets = tuple(
            socket.socket(fileno=os.dup(each.fileno())) for each in getattr(server, "sockets", ())
        )
        self._take_spares()
        try:
            for each in self.sockets:
                each.setblocking(False)
                each.listen(backlog)
                self._loop.add_reader(each, self._accept, each)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop accepting."""
        for each in self.sockets:
            pause = self._pauses.pop(each, None)
            if pause is not None:
                pause.cancel()
            self._loop.remove_reader(each)
            each.close()
        self.sockets = ()
        self._server.close()
        while self._spares:
            os.close(self._spares.pop())

    def _accept(self, listening: socket.socket) -> None:
        last = soft_limit()
        if last is not None:
            last -= min(LAST_DESCRIPTORS, last // 4)
        for _ in range(ACCEPTED_AT_ONCE):
            self._take_spares()
            crowded = False
            try:
                line, _ = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if error.errno not in NO_DESCRIPTOR or not self._spares:
                    self._pause(listening, error)
                    return
                crowded = True
                os.close(self._spares.pop())
                try:
                    line, _ = listening.accept()
                except OSError as again:
                    # Linux looks for a descriptor before it looks for a connection, so there may be none.
                    self._take_spares()
                    if not isinstance(again, BlockingIOError | InterruptedError | ConnectionAbortedError):
                        self._pause(listening, again)
                    return
            if self._tls and len(self._arriving) >= self._max_handshakes:
                # Handshakes are not connections yet, but take more memory than one.
                self._refused(f"{self._max_handshakes} TLS handshakes are under way")
                line.close()
                continue
            if crowded or (last is not None and line.fileno() >= last):
                crowded = True
                self._refused(f"hardly any of {soft_limit()} file descriptors is free")
            # The loop refers to tasks only weakly, so the acceptor holds them.
            task = self._loop.create_task(self._connect(line, crowded))
            self._arriving.add(task)
            task.add_done_callback(self._arriving.discard)

    async def _connect(self, line: socket.socket, crowded: bool) -> None:
        await serve_line(self._loop, functools.partial(self._make_protocol, crowded), line, self._tls)

    def _take_spares(self) -> None:
        while len(self._spares) < SPARE_DESCRIPTORS:
            try:
                self._spares.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                return

    def _pause(self, listening: socket.socket, error: OSError) -> None:
        self._refused(f"{error.strerror}; new ones wait")
        self._loop.remove_reader(listening)
        self._pauses[listening] = self._loop.call_later(PAUSE, self._resume, listening)

    def _resume(self, listening: socket.socket) -> None:
        del self._pauses[listening]
        self._loop.add_reader(listening, self._accept, listening)


async def serve_line(
    loop: asyncio.AbstractEventLoop, make_protocol: MakeProtocol, line: socket.socket, tls: dict[str, Any]
) -> None:
    """Make the transport and the protocol of an accepted connection."""
    protocol: Any = None

    def make() -> asyncio.BaseProtocol:
        nonlocal protocol
        protocol = make_protocol()
        return protocol  # type: ignore[no-any-return]

    try:
        await loop.connect_accepted_socket(make, line, **tls)
    except BaseException as error:
        if protocol is None:
            line.close()
        else:
            # The transport owns the line and closes it later: the descriptor must not be reused for another
            # connection before. connection_lost may never be called, either because TLS failed before
            # connection_made, or because uvloop was cancelled after it.
            protocol.abort_opening()
        if not isinstance(error, OSError):
            raise
        # A failed or slow TLS handshake is the peer's fault and not worth a log line.


def soft_limit() -> int | None:
    """Return the soft limit of file descriptors; None if there is none."""
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def descriptors_for_connections() -> int:
    """Return the soft limit of descriptors minus a reserve."""
    soft = soft_limit()
    return 2**31 if soft is None else max(soft - RESERVED_DESCRIPTORS, 1)
