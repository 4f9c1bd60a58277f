"""The exceptions of sockrpc, arranged by whose fault it is.

    SockRPCError
    ├── UsageError          the caller of this API
    ├── ProtocolError       the peer's bytes (carries the close code)
    ├── HandshakeError      the opening handshake was refused or broken
    ├── RemoteError         the peer's handler (protocol versions that carry errors)
    ├── ConnectionClosed    we closed the connection
    └── ConnectionLost      the peer closed it, or the line broke

Timeouts are ``TimeoutError`` and cancellation is ``asyncio.CancelledError``; neither is ever
replaced by one of these.

`reason` has the peer's text as it came; the text of the exception has it escaped, so that it is safe
to log.
"""

from __future__ import annotations

from sockrpc.texts import printable

__all__ = [
    "ConnectionClosed",
    "ConnectionLost",
    "HandshakeError",
    "ListenerOverflow",
    "ProtocolError",
    "RemoteError",
    "SockRPCError",
    "UsageError",
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


class RemoteError(SockRPCError):
    """The peer's handler failed. ``websocket.io-rpc-v0.1`` cannot say so; later versions can."""


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
    """


class ListenerOverflow(SockRPCError):
    """A listener fell behind by more than ``max_listener_payloads`` or ``max_listener_bytes``."""
