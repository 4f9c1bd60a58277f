"""The limits, a row each, with their names, defaults, units and sides.

docs/reference/limits.md says what happens at each. Adding a limit is a change of one row here, of the typed
lines with its name (in a TypedDict, in `Limits`, and in _settings.pxd if compiled code reads it) and of its
documentation. The keywords, the flags of the command line, the checks and the tests follow from the row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypedDict, Unpack

from sockrpc.errors import UsageError

__all__ = [
    "CLIENT_KEYWORDS",
    "LIMITS",
    "SERVER_KEYWORDS",
    "ClientLimits",
    "ConnectionLimits",
    "Limit",
    "Limits",
    "ServerLimits",
    "Side",
    "check_seconds",
    "make_limits",
]

KIB = 1024
MIB = 1024 * KIB
Side = Literal["server", "client"]
LONGEST = 1e9  # seconds; thirty years, and no timer overflows
LARGEST = 2**47  # fits every size type that the compiled code counts in


class Limit(NamedTuple):
    """A limit, as a row.

    Attributes:
        name: The keyword.
        default: The value if none is given; None if there is no limit, or the system decides.
        unit: "s" for a time, "bytes" for a size, "" for a count.
        sides: Those of "server" and "client" that have it.
        may_be_none: None is allowed and switches the limit off.
        may_be_zero: 0 is allowed.
        of_client: The client's default where it has another one.
    """

    name: str
    default: float | None
    unit: Literal["s", "bytes", ""]
    sides: tuple[Side, ...]
    may_be_none: bool = False
    may_be_zero: bool = False
    of_client: float | None = None

    def default_of(self, side: Side) -> float | None:
        """Return the default of one side."""
        return self.default if side == "server" or self.of_client is None else self.of_client

    def check(self, value: object) -> None:
        """Check a value for this limit.

        Raises:
            UsageError: It is out of the range of this limit.
        """
        if value is None:
            if not self.may_be_none:
                raise UsageError(f"{self.name} can not be None")
            return
        if self.unit == "s":
            check_seconds(self.name, value, zero=self.may_be_zero)
            return
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(f"{self.name} is a number, not {value!r}")
        if not isinstance(value, int) or not (0 if self.may_be_zero else 1) <= value <= LARGEST:
            raise UsageError(f"{self.name} is a positive integer, not {value!r}")


SERVER: tuple[Side, ...] = ("server",)
CLIENT: tuple[Side, ...] = ("client",)
BOTH = SERVER + CLIENT

# In the order of the documentation.
LIMITS: Mapping[str, Limit] = {
    limit.name: limit
    for limit in (
        Limit("max_message_bytes", 16 * MIB, "bytes", BOTH),
        Limit("max_calls", 4_096, "", BOTH),
        Limit("max_in_flight", 1_024, "", SERVER),
        Limit("max_waiting_calls", 16_384, "", SERVER),
        Limit("max_held_bytes", 24 * MIB, "bytes", SERVER),
        Limit("max_notifications", 1_024, "", SERVER),
        Limit("max_outgoing_calls", 1_024, "", BOTH),
        Limit("window_bytes", 64 * KIB, "bytes", BOTH, of_client=256 * KIB),
        Limit("credit_timeout", None, "s", SERVER, may_be_none=True),
        Limit("output_high_bytes", 1 * MIB, "bytes", BOTH),
        Limit("output_low_bytes", 256 * KIB, "bytes", BOTH, may_be_zero=True),
        Limit("output_max_bytes", 16 * MIB, "bytes", BOTH),
        Limit("stall_timeout", 30.0, "s", BOTH, may_be_none=True),
        Limit("ping_interval", 20.0, "s", BOTH, may_be_none=True),
        Limit("ping_timeout", 20.0, "s", BOTH, may_be_none=True),
        Limit("handshake_timeout", 10.0, "s", BOTH),
        Limit("max_handshake_bytes", 64 * KIB, "bytes", BOTH),
        Limit("max_connections", None, "", SERVER, may_be_none=True),
        Limit("stop_grace", 10.0, "s", SERVER, may_be_zero=True),
        Limit("abort_grace", 5.0, "s", SERVER, may_be_zero=True),
        Limit("close_timeout", 5.0, "s", BOTH, may_be_zero=True),
        Limit("max_threads", 32, "", SERVER),
        Limit("blocked_warning", 1.0, "s", SERVER, may_be_none=True, may_be_zero=True),
        Limit("max_listener_payloads", 4_096, "", CLIENT),
        Limit("max_listener_bytes", 16 * MIB, "bytes", CLIENT),
    )
}
SERVER_KEYWORDS = frozenset(limit.name for limit in LIMITS.values() if "server" in limit.sides)
CLIENT_KEYWORDS = frozenset(limit.name for limit in LIMITS.values() if "client" in limit.sides)

# From here on the limits are written out with their types, because type checkers and editors read the source
# and cannot derive names and types from rows. tests/test_limits_values.py checks that they agree.


class ConnectionLimits(TypedDict, total=False):
    """The limits that both sides of a connection have, as keywords."""

    max_message_bytes: int
    max_calls: int
    max_outgoing_calls: int
    window_bytes: int
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
    credit_timeout: float | None
    max_threads: int
    stop_grace: float
    abort_grace: float
    blocked_warning: float | None


class ClientLimits(ConnectionLimits, total=False):
    """The limits of `connect`, as keywords."""

    max_listener_payloads: int
    max_listener_bytes: int


class AllLimits(ServerLimits, ClientLimits, total=False):
    """The limits of both sides, as keywords."""


@dataclasses.dataclass(frozen=True, init=False, slots=True)
class Limits:
    """All limits of one server or one client, checked.

    Sizes are in bytes, times in seconds; None switches a limit off where None is allowed. A limit that is not
    given has the default of its row.

    Raises:
        UsageError: A value is out of its range.
    """

    max_message_bytes: int
    max_calls: int
    max_in_flight: int
    max_waiting_calls: int
    max_held_bytes: int
    max_notifications: int
    max_outgoing_calls: int
    window_bytes: int
    credit_timeout: float | None
    output_high_bytes: int
    output_low_bytes: int
    output_max_bytes: int
    stall_timeout: float | None
    ping_interval: float | None
    ping_timeout: float | None
    handshake_timeout: float
    max_handshake_bytes: int
    max_connections: int | None
    stop_grace: float
    abort_grace: float
    close_timeout: float
    max_threads: int
    blocked_warning: float | None
    max_listener_payloads: int
    max_listener_bytes: int

    def __init__(self, **given: Unpack[AllLimits]) -> None:
        unknown = given.keys() - LIMITS.keys()
        if unknown:
            raise TypeError(f"no such limit: {', '.join(sorted(unknown))}")
        for limit in LIMITS.values():
            value = given.get(limit.name, limit.default)
            limit.check(value)
            object.__setattr__(self, limit.name, value)
        if not self.output_low_bytes <= self.output_high_bytes <= self.output_max_bytes:
            raise UsageError("output_low_bytes <= output_high_bytes <= output_max_bytes must hold")


def check_seconds(name: str, value: object, *, zero: bool = False) -> None:
    """Check a time: asyncio and uvloop do different things with one that is no proper number of seconds.

    Args:
        name: The name of the argument, for the message.
        value: The time.
        zero: Whether it may be zero.

    Raises:
        UsageError: It is no number, not-a-number, infinite, negative or absurdly long.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{name} is a number of seconds, not {value!r}")
    # Written so that not-a-number, which compares as false, is refused.
    if not (value >= 0 if zero else value > 0) or value > LONGEST:
        or_zero = " or 0" if zero else ""
        raise UsageError(f"{name} is a positive number of seconds{or_zero}, at most {LONGEST:g}")


def make_limits(limits: Mapping[str, Any], side: Side) -> Limits:
    """Check the keywords of limits, and add the defaults of this side.

    Raises:
        UsageError: There is no such limit, or its value is out of range.
    """
    defaults: dict[str, Any] = {
        limit.name: limit.default_of(side) for limit in LIMITS.values() if side in limit.sides
    }
    unknown = limits.keys() - defaults.keys()
    if unknown:
        raise UsageError(f"no such limit: {', '.join(sorted(unknown))}")
    return Limits(**{**defaults, **limits})
