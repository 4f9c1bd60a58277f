"""How a command fails: its exit codes, and the lines on standard error."""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

import sockrpc
from sockrpc.codes import name_of
from sockrpc.listen.notes import notes_of
from sockrpc.texts import printable

__all__ = [
    "EXIT_FAILED",
    "EXIT_INTERRUPTED",
    "EXIT_NO_CONNECTION",
    "EXIT_RPC_ERROR",
    "EXIT_TIMED_OUT",
    "EXIT_USAGE",
    "Interrupted",
    "NoConnectionError",
    "bytes_fields",
    "complain",
    "complain_of_call",
    "told",
]

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_RPC_ERROR = 3
EXIT_NO_CONNECTION = 4
EXIT_TIMED_OUT = 124  # as timeout(1)
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class NoConnectionError(Exception):
    """There is no connection.

    Args:
        reason: The error that says why.
    """

    def __init__(self, reason: Exception) -> None:
        super().__init__(reason)
        self.reason = reason


class Interrupted(Exception):
    """Ctrl-C has reset a call.

    Args:
        outcome: The outcome of its work.
    """

    def __init__(self, outcome: sockrpc.Outcome) -> None:
        super().__init__(f"interrupted; the call was reset, outcome {name_of(outcome).replace('_', ' ')}")


def told(error: BaseException) -> str:
    """Return the text of an error, with its kind unless it is a time-out, and with its notes."""
    if isinstance(error, TimeoutError):
        return (str(error) or "timed out") + notes_of(error)
    return f"{type(error).__name__}: {error}{notes_of(error)}"


def complain(text: str, code: int) -> int:
    """Say what is wrong, in one line and without control characters of a peer; returns the exit code."""
    print(f"sockrpc: {printable(text)}", file=sys.stderr)
    return code


def complain_of_call(error: sockrpc.RPCError, *, as_json: bool, details: bool) -> int:
    """Say how a call has failed, as `CODE: message`; returns the exit code.

    Args:
        error: The error.
        as_json: Print one JSON object, with everything, instead.
        details: Print what became of the work, and the details, too.
    """
    more: dict[str, Any] = {"outcome": name_of(error.outcome)}
    if error.retry_after is not None:
        more["retry_after"] = error.retry_after
    elif error.details:
        more |= bytes_fields("details", error.details)
    if as_json:
        text = json.dumps({"code": name_of(error.code), "message": error.message, **more})
    else:
        # The text of the error is printable already.
        lines = [f"{error}{printable(notes_of(error))}"]
        if details:
            lines += [f"{name}: {printable(str(value))}" for name, value in more.items()]
        text = "\n".join(lines)
    print(text, file=sys.stderr)
    return EXIT_TIMED_OUT if isinstance(error, TimeoutError) else EXIT_RPC_ERROR


def bytes_fields(name: str, data: bytes) -> dict[str, str]:
    """Return bytes as a field of JSON: as text where they are text."""
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data).decode()}
