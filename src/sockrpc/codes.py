"""The codes and outcomes with which calls end in `sockrpc.v1` (PROTOCOL.md)."""

from __future__ import annotations

import enum

__all__ = [
    "CODES",
    "FIRST_APPLICATION_CODE",
    "LAST_CODE",
    "Code",
    "Outcome",
    "code_of",
    "name_of",
    "outcome_of",
]

# Codes from here to 255 belong to applications.
FIRST_APPLICATION_CODE = 128
LAST_CODE = 255


class Code(enum.IntEnum):
    """Why a call failed: gRPC's names and numbers (google/rpc/code.proto)."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Outcome(enum.Enum):
    """The fate of the work of a call that gave no result. The library sets it, never a handler.

    Attributes:
        PARTIAL: The work began, and was aborted or failed; its undo hooks have run.
        NOT_STARTED: No line of the handler has run, so the call may be sent again, whatever it does.
        COMPLETED: The effect has taken place, although its result was not delivered.
        UNKNOWN: Nobody has said, because the connection was lost first, or the error was made on this side.
    """

    PARTIAL = 0
    NOT_STARTED = 1
    COMPLETED = 2
    UNKNOWN = None


CODES = {code.value: code for code in Code}
OUTCOMES = (Outcome.PARTIAL, Outcome.NOT_STARTED, Outcome.COMPLETED)


def name_of(value: Code | Outcome | int) -> str:
    """Return a code or an outcome as logs and statistics write it, such as NOT_FOUND, 200 and not_started."""
    if isinstance(value, Outcome):
        return value.name.lower()
    return value.name if isinstance(value, Code) else str(value)


def code_of(number: int) -> Code | int:
    """Return the code of a number that a peer sent; numbers that nobody has defined are UNKNOWN."""
    return number if number >= FIRST_APPLICATION_CODE else CODES.get(number, Code.UNKNOWN)


def outcome_of(number: int) -> Outcome:
    """Return the outcome of a number that a peer sent; a number that nobody has defined is PARTIAL."""
    return OUTCOMES[number] if number < len(OUTCOMES) else Outcome.PARTIAL
