"""What is left of a server's connection for those who still have its socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sockrpc.peer.peer import Peer

__all__ = ["EndedConnection"]


class EndedConnection:
    """Answers for a connection that is over, which itself is freed: its buffers, its queues and its parser.

    A socket refers to its connection and the connection to its socket; this ends the cycle, so that nothing
    waits for the garbage collector.
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

    def __init__(self, connection: Peer) -> None:
        self.close_code = connection.close_code
        self.close_reason = connection.close_reason
        self.has_ended_by_us = connection.has_ended_by_us
        self.log_fields = connection.log_fields
        self.number = connection.number
        self.service = connection.service
        self._kind: Callable[[int, str], Exception] = type(connection.reason_ended())

    def reason_ended(self) -> Exception:
        """Why the connection carries nothing more, as the exception to raise."""
        return self._kind(self.close_code, self.close_reason)

    def extra_info(self, name: str) -> None:
        """The transport is gone."""

    def take(self) -> None:
        """Nothing waits any more."""

    def close(self, code: int, reason: str) -> None:
        """It is closed."""

    def wait_lost(self) -> asyncio.Future[None]:
        """A future that is done."""
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lost.set_result(None)
        return lost
