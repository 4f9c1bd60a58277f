"""The choice of subprotocols (RFC 6455 section 1.9)."""

from __future__ import annotations

from collections.abc import Sequence

from sockrpc._frames import PROTOCOLS
from sockrpc.errors import UsageError

__all__ = ["check_protocols"]


def check_protocols(protocols: Sequence[str]) -> tuple[str, ...]:
    """Return subprotocols as a tuple.

    Raises:
        UsageError: There are none, or one is unknown or stands twice.
    """
    chosen = (protocols,) if isinstance(protocols, str) else tuple(protocols)
    if not chosen or len(set(chosen)) != len(chosen) or not set(chosen) <= set(PROTOCOLS):
        raise UsageError(f"protocols are one or more of {', '.join(PROTOCOLS)}, not {protocols!r}")
    return chosen
