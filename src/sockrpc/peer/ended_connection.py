"""The remains of a server's connection, for code that still has its socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sockrpc.peer.peer import Peer

__all__ = ["EndedConnection"]


class EndedConnection:
    """Stands in for a connection that is over, so that its buffers, queues and parser can be freed.

    A socket refers to its connection and the connection to its socket; replacing the connection by this
    object breaks the cycle, so that nothing waits for the garbage collector.
    """

    __slots__ = (
        "_kind",
        "close_code",
        "close_reason",
        "has_ended_by_us",
        "log_fields",
        "number",
        "service",
    )

    has_ended = has_nothing_more = True
    is_open = False
    in_flight = 0
    transport = None
    hello = None

    def __init__(self, connection: Peer) -> None:
        self.close_code = connection.close_code
        self.close_reason = connection.close_reason
        self.has_ended_by_us = connection.has_ended_by_us
        self.log_fields = connection.log_fields
        self.number = connection.number
        self.service = connection.service
        self._kind: Callable[[int, str], Exception] = type(connection.reason_ended())

    def reason_ended(self) -> Exception:
        """Return the exception to raise when the connection is used."""
        return self._kind(self.close_code, self.close_reason)

    def request(self, name: bytes, payload: bytes) -> None:
        """Raise, as no call can be made any more."""
        raise self.reason_ended()

    def open_call(self, *options: object) -> None:
        """Raise, as no call can be made any more."""
        raise self.reason_ended()

    def extra_info(self, name: str) -> None:
        """Return None, as the transport is gone."""

    def take(self) -> None:
        """Return None, as nothing waits any more."""

    def close(self, code: int, reason: str) -> None:
        """Do nothing, as the connection is closed."""

    def wait_lost(self) -> asyncio.Future[None]:
        """Return a future that is done already."""
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lost.set_result(None)
        return lost
