"""The log of refused connections, which a flood of them does not fill."""

from __future__ import annotations

import logging

from sockrpc.peer.rate_limited_log import RateLimitedLog

__all__ = ["RefusalLog"]

LOG = logging.getLogger("sockrpc.server")


class RefusalLog:
    """Logs why connections are refused, each reason once a minute, so that a flood causes few lines."""

    def __init__(self) -> None:
        self._log = RateLimitedLog("reasons to refuse connections")

    def log(self, reason: str) -> None:
        """Log that connections are refused because there are too many, or could not even be accepted."""
        more = self._log.allow(reason)
        if more is not None:
            LOG.warning("refusing connections: %s%s", reason, more)
