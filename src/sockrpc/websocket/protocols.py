"""The choice of subprotocols (RFC 6455 section 1.9)."""

from __future__ import annotations

from collections.abc import Sequence

from sockrpc._frames import PROTOCOL_V0, PROTOCOLS
from sockrpc.errors import UsageError

__all__ = ["PROTOCOLS", "PROTOCOL_V0", "check_protocols", "is_refusal_of_offer"]


def check_protocols(protocols: Sequence[str]) -> tuple[str, ...]:
    """Return subprotocols as a tuple.

    Raises:
        UsageError: There are none, or one is unknown or stands twice.
    """
    chosen = (protocols,) if isinstance(protocols, str) else tuple(protocols)
    if not chosen or len(set(chosen)) != len(chosen) or not set(chosen) <= set(PROTOCOLS):
        raise UsageError(f"protocols are one or more of {', '.join(PROTOCOLS)}, not {protocols!r}")
    return chosen


def is_refusal_of_offer(status: int | None) -> bool:
    """Return whether a server may refuse, with this status, because it is offered more than one protocol.

    The published Rust server does with 200, as it compares the whole header line.
    """
    return status in (200, 400)
