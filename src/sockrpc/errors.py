"""The exceptions of sockrpc, arranged by whose fault it is.

    SockRPCError
    ├── UsageError          the caller of this API
    ├── ProtocolError       the peer's bytes (carries the close code)
    ├── HandshakeError      the opening handshake was refused or broken
    ├── RPCError            the peer failed or refused the call (carries a code and an outcome)
    │   └── DeadlineExceeded    the time-out of a call is over; it is a TimeoutError too
    ├── ConnectionClosed    we closed the connection
    └── ConnectionLost      the peer closed it, or the line broke

Other time-outs are ``TimeoutError``, and cancellation is ``asyncio.CancelledError``; neither is ever
replaced by one of these.

`reason` has the peer's text as it came; the text of the exception has it escaped, so that it is safe
to log.
"""

from __future__ import annotations

import math

from sockrpc.codes import (
    CODES,
    FIRST_APPLICATION_CODE,
    LAST_CODE,
    Code,
    Outcome,
    code_of,
    name_of,
    outcome_of,
)
from sockrpc.texts import printable

__all__ = [
    "ConnectionClosed",
    "ConnectionLost",
    "DeadlineExceeded",
    "HandshakeError",
    "ListenerOverflow",
    "ProtocolError",
    "RPCError",
    "SockRPCError",
    "UsageError",
    "local_error",
    "received_error",
]


class SockRPCError(Exception):
    """Base of every exception that sockrpc defines."""


class UsageError(SockRPCError):
    """The API was used in a way that cannot work. The fault is the caller's."""


class ProtocolError(SockRPCError):
    """The peer sent bytes that the protocol forbids. The connection has been closed with ``code``.

    Attributes:
        code: The WebSocket close code that was sent (RFC 6455 section 7.4.1).
        reason: The fault of the bytes.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"closed with {self.code}: {printable(self.reason)}"


class HandshakeError(SockRPCError):
    """The opening handshake failed.

    Attributes:
        status: The HTTP status of the response of the server, or of a proxy; None if there was none.
        reason: The fault.
        location: The target of a redirect that was not followed, otherwise None.
    """

    def __init__(self, reason: str, status: int | None = None, location: str | None = None) -> None:
        super().__init__(reason, status, location)
        self.reason = reason
        self.status = status
        self.location = location

    def __str__(self) -> str:
        reason = printable(self.reason)
        return reason if self.status is None else f"HTTP {self.status}: {reason}"


class RPCError(SockRPCError):
    """A call has failed. Handlers raise it, and it is raised at their callers.

    Args:
        code: A `Code`, or an application's own number from 128 to 255.
        message: For people; it reaches the caller as it stands.
        details: For programs, in whatever form the application wants.
        retry_after: Seconds before which the caller should not try again. It travels in the details, so that
            there is only one of both.

    Attributes:
        code: The code.
        message: The message.
        details: The details.
        outcome: The fate of the work; `Outcome.UNKNOWN` for an error that was not received.
        received: True if it came from a peer. If a handler lets one escape, its own caller sees INTERNAL.
        retry_after: Seconds, or None.

    Raises:
        UsageError: There is no such code, the message is no text, the details are no bytes, or both details
            and retry_after are given.
    """

    # A subclass may forget to call `__init__`, and its calls have to end nevertheless.
    code: Code | int = Code.UNKNOWN
    message: str = ""
    details: bytes = b""
    retry_after: float | None = None
    outcome: Outcome = Outcome.UNKNOWN
    received: bool = False

    def __init__(
        self, code: Code | int, message: str = "", *, details: bytes = b"", retry_after: float | None = None
    ) -> None:
        # A method may refuse most of its calls, so the usual types are looked at first.
        if type(code) is not Code:
            number = int(code)
            if number not in CODES and not FIRST_APPLICATION_CODE <= number <= LAST_CODE:
                raise UsageError(f"a code is a Code, or from 128 to 255, not {code!r}")
            code = CODES.get(number, number)
        if not isinstance(message, str):
            raise UsageError(f"the message of an error is text, not {type(message).__name__}")
        if type(details) is not bytes:
            if not isinstance(details, bytes | bytearray | memoryview):
                raise UsageError(f"the details of an error are bytes, not {type(details).__name__}")
            details = bytes(details)
        if retry_after is not None:
            if details:
                raise UsageError("retry_after travels in the details, so an error has only one of both")
            milliseconds = math.ceil(retry_after * 1000)
            if not 0 <= milliseconds < 2**32:
                raise UsageError(f"retry_after is a number of seconds, not {retry_after!r}")
            details = milliseconds.to_bytes(4, "big")
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.details = details
        self.retry_after = retry_after

    def __str__(self) -> str:
        name = name_of(self.code)
        return f"{name}: {printable(self.message)}" if self.message else name


class DeadlineExceeded(RPCError, TimeoutError):
    """The time-out of a call is over, by the clock of either side.

    As a `TimeoutError` it is an `OSError` too.
    """


def received_error(code: int, outcome: int, message: str, details: bytes) -> RPCError:
    """Make the exception of an error that a peer sent."""
    known = code_of(code)
    kind = DeadlineExceeded if known is Code.DEADLINE_EXCEEDED else RPCError
    error = kind(known, message, details=details)
    error.outcome = outcome_of(outcome)
    error.received = True
    if len(details) == 4 and known in (Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE):
        error.retry_after = int.from_bytes(details, "big") / 1000
    return error


def local_error(code: Code, message: str, outcome: Outcome) -> RPCError:
    """Make the exception of a call that this side has ended, whose outcome it knows."""
    kind = DeadlineExceeded if code is Code.DEADLINE_EXCEEDED else RPCError
    error = kind(code, message)
    error.outcome = outcome
    return error


class _Ended(SockRPCError):
    """The end of a connection: ``code`` and ``reason`` of the close frame, or 1006 without one."""

    def __init__(self, code: int = 1006, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.code}: {printable(self.reason)}" if self.reason else str(self.code)


class ConnectionClosed(_Ended):
    """We closed the connection ourselves.

    Attributes:
        code: The WebSocket close code that was sent.
        reason: The reason that was sent.
    """


class ConnectionLost(_Ended):
    """The peer closed the connection, or the line broke. A request may or may not have been served.

    Attributes:
        code: The close code that the peer sent, 1006 if the line broke without a close frame, 1005
            if the close frame held no code (RFC 6455 section 7.4.1).
        reason: The reason that the peer sent, or the cause of the break.
        outcome: The fate of the call that failed with this: NOT_STARTED if the peer took leave in order,
            as `sockrpc.v1` can, and never received the call; otherwise UNKNOWN.
    """

    outcome: Outcome = Outcome.UNKNOWN


class ListenerOverflow(SockRPCError):
    """A listener fell behind by more than ``max_listener_payloads`` or ``max_listener_bytes``."""
