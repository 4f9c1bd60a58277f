"""The client: calls, notifications, listeners."""

from __future__ import annotations

import warnings
from typing import NamedTuple, Self

from sockrpc._frames import encode
from sockrpc.calls import Calls, Payload
from sockrpc.listener import Listener
from sockrpc.peer.peer import Peer

__all__ = ["Client", "Status"]


class Status(NamedTuple):
    """Calls and events that a client waits for."""

    pending: list[int]
    events: list[str]


class Client(Calls):
    """The client's end of one connection; made by `connect`.

    It belongs to the event loop, the thread and the process that it was made in; use from another one
    raises `UsageError` before anything is sent. If the last reference to a client with an open connection
    goes, the connection is closed with a `ResourceWarning`; calls in flight and listeners hold references.
    """

    def __init__(self, connection: Peer) -> None:
        self._connection = connection

    async def notify(self, event: str, payload: Payload = b"") -> None:
        """Send a notification; waits while the server reads too slowly. Cancelling the wait sends nothing.

        Raises:
            ConnectionLost: The connection was lost.
            ConnectionClosed: We closed it.
            UsageError: The name is too long.
        """
        name, encoded = encode(event, payload)
        connection = self._connection
        connection.check_place()
        while not (connection.has_ended or connection.is_writable()):
            await connection.drained()
        if connection.has_ended:
            raise connection.reason_ended()
        connection.notify(name, encoded)

    def on(self, event: str) -> Listener:
        """Listen to an event from now on. If there are several listeners, each gets every payload.

        Raises:
            ConnectionLost: The connection was lost.
            ConnectionClosed: We closed it.
            UsageError: The name is too long.
        """
        name, _ = encode(event, b"")
        return Listener(self._connection.subscribe(name), self)

    @property
    def subprotocol(self) -> str:
        """The protocol that both ends speak."""
        subprotocol: str = self._connection.subprotocol
        return subprotocol

    @property
    def closing(self) -> bool:
        """True once the server has said that it takes no more calls (v1); those that run may finish."""
        closing: bool = self._connection.peer_leaves
        return closing

    def status(self) -> Status:
        """Return the ids of the calls in flight, and the events that have listeners."""
        return Status(self._connection.ids_in_flight, self._connection.events_listened)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection and wait until it is gone, at most `close_timeout` seconds.

        Calls in flight fail with `ConnectionClosed`; iterators end. Cancelling this does not undo the
        close.
        """
        self._connection.check_place()
        self._connection.close(code, reason)
        await self._connection.wait_lost()

    async def wait_closing(self) -> None:
        """Wait until the server takes no more calls (v1), or the connection is gone."""
        self._connection.check_place()
        await self._connection.wait_leaving()

    async def wait_closed(self) -> None:
        """Wait until the connection is gone, whichever side ended it."""
        self._connection.check_place()
        await self._connection.wait_lost()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def __del__(self) -> None:
        if self._connection.leave():
            warnings.warn("a client was not closed", ResourceWarning, source=self, stacklevel=2)
