"""Accepts connections, also when the process has no file descriptor left.

The loops' own servers do not survive that: asyncio calls the loop's exception handler once for each
connection that could wait (1,024 times a second), libuv closes whatever waits without a word, and
gives its listener up if another thread takes the descriptor that it kept for this. So the accepting
is ours. A few descriptors are held in reserve; one is given back for each connection that could not
be accepted otherwise, and taken again when that connection has been refused.
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

# Descriptors that stay free for everything but connections where max_connections is not given.
RESERVED_DESCRIPTORS = 64

# How many connections may be in their refusal at a time when no descriptor is left.
SPARE_DESCRIPTORS = 8

# The system hands out the lowest free descriptor. When that is one of so many last ones the rest is
# left to those who have got in, and to the application.
LAST_DESCRIPTORS = 16

# TLS handshakes that may be under way at a time however small `max_connections` is: who fails in one
# takes a moment to go, and is not to keep others out.
LEAST_HANDSHAKES = 64

# Connections accepted in one iteration of the loop, before others get their turn.
ACCEPTED_AT_ONCE = 16

# How long nothing is accepted when accepting fails, in seconds: the listening socket stays readable,
# and the loop would spin.
PAUSE = 0.25

NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)


class Acceptor:
    """Accepts connections for one of the loop's servers, in its stead.

    Args:
        server: A server of a loop that has `add_reader`, bound and not serving; the acceptor owns it.
        backlog: How many connections the system may hold before they are accepted.
        make_protocol: Makes the protocol of a connection; True says that there are hardly any
            descriptors left, so that the connection is to be refused.
        tls: The keywords of TLS that `connect_accepted_socket` takes.
        refused: Called with the reason whenever connections are refused or left waiting.
        max_handshakes: TLS handshakes under way at a time, or LEAST_HANDSHAKES; one more is closed.
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
        # Of our own, as those of the loops do not accept.
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
        """Accept nothing more."""
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
                # They are no connections yet, and take more memory than one.
                self._refused(f"{self._max_handshakes} TLS handshakes are under way")
                line.close()
                continue
            if crowded or (last is not None and line.fileno() >= last):
                crowded = True
                self._refused(f"hardly any of {soft_limit()} file descriptors is free")
            # Held here, as the loop refers to tasks only weakly.
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
    """Give an accepted connection its transport and its protocol."""
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
            # The transport owns the line, and closes it in its own time: its descriptor must not be used for
            # another connection meanwhile. connection_lost may never be called: TLS has failed before
            # connection_made, or uvloop was cancelled after it.
            protocol.give_up_opening()
        if not isinstance(error, OSError):
            raise
        # The TLS handshake failed, or was not done in time: the peer's affair, and no news.


def soft_limit() -> int | None:
    """The soft limit of file descriptors; None if there is none."""
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def descriptors_for_connections() -> int:
    """The soft limit of descriptors, less a reserve."""
    soft = soft_limit()
    return 2**31 if soft is None else max(soft - RESERVED_DESCRIPTORS, 1)
