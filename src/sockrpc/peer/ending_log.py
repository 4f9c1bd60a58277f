"""Log lines that say why connections end, limited so that a flood of bad peers is no flood of lines."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

from sockrpc.peer.rate_limited_log import RateLimitedLog

if TYPE_CHECKING:
    from sockrpc.peer.peer import Peer

__all__ = ["ClosedBy", "EndingLog", "closed_by"]

LOG = logging.getLogger("sockrpc.server")

ClosedBy = Literal["client", "server", "lost"]

# Lines per minute at level INFO for each close code of one server.
LINES_A_MINUTE = 10

# Codes of ends that an operator cares about: the peer broke the protocol or a limit, or the application
# failed.
NOTABLE = frozenset({1002, 1003, 1007, 1009, 1010, 1011, 1013})


def closed_by(connection: Peer) -> ClosedBy:
    """Return which side ended a connection that has ended."""
    if connection.has_ended_by_us:
        return "server"
    # No peer can send this code; it means that no close frame came (RFC 6455 7.1.5).
    return "lost" if connection.close_code == 1006 else "client"


class EndingLog:
    """Logs how the connections of one server have ended."""

    def __init__(self) -> None:
        self._log = RateLimitedLog(
            "codes that connections ended with", lines=LINES_A_MINUTE, level=logging.INFO
        )

    def log(self, connection: Peer) -> None:
        """Log the end of a connection, if the limits of the log allow a line."""
        more = None
        if LOG.isEnabledFor(logging.INFO) and self._is_notable(connection):
            more = self._log.allow(str(connection.close_code))
        if more is not None:
            self._write(logging.INFO, connection, more)
        elif LOG.isEnabledFor(logging.DEBUG):
            self._write(logging.DEBUG, connection, "")

    @staticmethod
    def _is_notable(connection: Peer) -> bool:
        if connection.was_given_up:
            return True
        return connection.has_ended_by_us and connection.close_code in NOTABLE

    @staticmethod
    def _write(level: int, connection: Peer, rest: str) -> None:
        # %r escapes everything that is not printable: the peer may have chosen the reason.
        LOG.log(
            level,
            "connection of %s ended with %d %r, %s%s",
            connection.peer,
            connection.close_code,
            connection.close_reason,
            {"client": "closed by the client", "server": "closed by the server", "lost": "lost"}[
                closed_by(connection)
            ],
            rest,
            extra={
                **connection.log_fields,
                "close_code": connection.close_code,
                "close_reason": connection.close_reason,
                "closed_by": closed_by(connection),
            },
        )
