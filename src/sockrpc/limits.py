"""Every limit, with its name, its unit and its default; docs/reference/limits.md tells what each does."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypedDict

from sockrpc.errors import UsageError

__all__ = [
    "SECONDS",
    "ClientLimits",
    "ConnectionLimits",
    "Limits",
    "ServerLimits",
    "check_seconds",
    "make_limits",
]

KIB = 1024
MIB = 1024 * KIB


class ConnectionLimits(TypedDict, total=False):
    """The limits that both sides of a connection have, as keywords."""

    max_message_bytes: int
    output_high_bytes: int
    output_low_bytes: int
    output_max_bytes: int
    stall_timeout: float | None
    ping_interval: float | None
    ping_timeout: float | None
    handshake_timeout: float
    max_handshake_bytes: int
    close_timeout: float


class ServerLimits(ConnectionLimits, total=False):
    """The limits of `serve` and `run`, as keywords."""

    max_in_flight: int
    max_waiting_calls: int
    max_held_bytes: int
    max_notifications: int
    max_connections: int | None
    max_threads: int
    stop_grace: float
    abort_grace: float
    blocked_warning: float | None


class ClientLimits(ConnectionLimits, total=False):
    """The limits of `connect`, as keywords."""

    max_listener_payloads: int
    max_listener_bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """All limits of one server or one client, checked.

    Sizes are in bytes, times in seconds; None switches a limit off where None is allowed.

    Raises:
        UsageError: A value is out of its range.
    """

    max_message_bytes: int = 16 * MIB
    max_in_flight: int = 1_024
    max_waiting_calls: int = 16_384
    max_held_bytes: int = 24 * MIB
    max_notifications: int = 1_024
    output_high_bytes: int = 1 * MIB
    output_low_bytes: int = 256 * KIB
    output_max_bytes: int = 16 * MIB
    stall_timeout: float | None = 30.0
    ping_interval: float | None = 20.0
    ping_timeout: float | None = 20.0
    handshake_timeout: float = 10.0
    max_handshake_bytes: int = 64 * KIB
    max_connections: int | None = None
    stop_grace: float = 10.0
    abort_grace: float = 5.0
    close_timeout: float = 5.0
    max_threads: int = 32
    blocked_warning: float | None = 1.0
    max_listener_payloads: int = 4_096
    max_listener_bytes: int = 16 * MIB

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            self._check(field.name, getattr(self, field.name))
        if not self.output_low_bytes <= self.output_high_bytes <= self.output_max_bytes:
            raise UsageError("output_low_bytes <= output_high_bytes <= output_max_bytes must hold")

    @staticmethod
    def _check(name: str, value: object) -> None:
        if value is None:
            if name not in OPTIONAL:
                raise UsageError(f"{name} can not be None")
            return
        if name in SECONDS:
            check_seconds(name, value, zero=name in MAY_BE_ZERO)
            return
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(f"{name} is a number, not {value!r}")
        if not isinstance(value, int) or not (0 if name in MAY_BE_ZERO else 1) <= value <= LARGEST:
            raise UsageError(f"{name} is a positive integer, not {value!r}")


def check_seconds(name: str, value: object, *, zero: bool = False) -> None:
    """Check a time that somebody gave: no loop knows what to do with one that is no number of seconds.

    Args:
        name: What it is, as whoever gave it knows it.
        value: The time.
        zero: It may be zero.

    Raises:
        UsageError: It is no number, not-a-number, infinite, negative or absurdly long.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{name} is a number of seconds, not {value!r}")
    # Written so that not-a-number, which compares as false, is refused.
    if not (value >= 0 if zero else value > 0) or value > LONGEST:
        or_zero = " or 0" if zero else ""
        raise UsageError(f"{name} is a positive number of seconds{or_zero}, at most {LONGEST:g}")


LONGEST = 1e9  # seconds; thirty years, and no timer overflows
LARGEST = 2**47  # fits every size type that the compiled code counts in
OPTIONAL = frozenset({"stall_timeout", "ping_interval", "ping_timeout", "max_connections", "blocked_warning"})
MAY_BE_ZERO = frozenset({"stop_grace", "abort_grace", "close_timeout", "output_low_bytes", "blocked_warning"})
SECONDS = frozenset(
    {
        "stall_timeout",
        "ping_interval",
        "ping_timeout",
        "handshake_timeout",
        "stop_grace",
        "abort_grace",
        "close_timeout",
        "blocked_warning",
    }
)


def make_limits(limits: Mapping[str, Any], known: frozenset[str]) -> Limits:
    """Check the keywords of limits.

    Raises:
        UsageError: There is no such limit, or its value is out of range.
    """
    unknown = set(limits) - known
    if unknown:
        raise UsageError(f"no such limit: {', '.join(sorted(unknown))}")
    return Limits(**limits)
