"""The steps of a client's connection from a transport to open."""

from __future__ import annotations

import asyncio

from sockrpc.errors import ConnectionLost, HandshakeError, SockRPCError
from sockrpc.peer.peer import Peer
from sockrpc.websocket.client_handshake import ClientHandshake
from sockrpc.websocket.exchange import BODY_TIMEOUT

__all__ = ["ClientOpening"]


class ClientOpening:
    """Drives the opening handshake of one client connection."""

    def __init__(self, handshake: ClientHandshake) -> None:
        self.handshake = handshake
        self.connection: Peer | None = None
        # None once `wait` has ended: an error in the future refers to the frames of the waiter, and these to
        # this object, so only the garbage collector could free them.
        self.opened: asyncio.Future[None] | None = asyncio.get_running_loop().create_future()
        self.timer: asyncio.TimerHandle | None = None

    def connected(self, connection: Peer) -> None:
        """Send the request, as the transport is connected."""
        self.connection = connection
        connection.write_handshake(self.handshake.request())

    def receive(self, data: bytes) -> None:
        """Handle bytes of the response."""
        assert self.connection is not None
        try:
            if not self.handshake.receive(data):
                if self.handshake.is_refused and self.timer is None:
                    self.timer = asyncio.get_running_loop().call_later(BODY_TIMEOUT, self.refuse)
                return
        except HandshakeError as error:
            self.fail(error)
            self.connection.abort(str(error))
        else:
            self.connection.hold_handshake(True)
            self.connection.open(self.handshake.rest, self.handshake.take_compression())
            assert self.handshake.subprotocol is not None
            self.connection.speak(self.handshake.subprotocol)
            if self.opened is not None and not self.opened.done():
                self.opened.set_result(None)

    def refuse(self) -> None:
        """End the opening as refused, without waiting for the rest of the response."""
        try:
            self.handshake.judge()
        except HandshakeError as error:
            self.fail(error)
        if self.connection is not None:
            self.connection.abort("refused in the opening handshake")

    def ended(self) -> None:
        """Handle an end of the connection before it was open."""
        try:
            self.handshake.receive(b"")
        except HandshakeError as error:
            if error.status is not None:
                self.fail(error)
        lost = ConnectionLost(1006, "connection lost in the opening handshake")
        if self.connection is not None and self.connection.cause is not None:
            lost = ConnectionLost(1006, f"{lost.reason}: {self.connection.cause}")
            lost.__cause__ = self.connection.cause
        self.fail(lost)

    def fail(self, error: SockRPCError) -> None:
        """Report an error to the waiter, if there is one and it has none yet."""
        if self.opened is not None and not self.opened.done():
            self.opened.set_exception(error)

    async def wait(self) -> None:
        """Wait until the connection is open.

        Raises:
            HandshakeError, ConnectionLost: The connection is not open and will not be.
        """
        assert self.opened is not None
        await self.opened

    def close(self) -> None:
        """Stop waiting."""
        self.connection = None
        if self.timer is not None:
            self.timer.cancel()
        opened, self.opened = self.opened, None
        if opened is not None and opened.done() and not opened.cancelled():
            # The time-out may have come first; then this keeps asyncio from logging the exception.
            opened.exception()
