"""The bytes that the load generator expects: the response of the opening, and the payloads."""

from __future__ import annotations

from bench.peer import SUBPROTOCOL

# The accept value belongs to the load generator's key, which is always the same.
ACCEPTED = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
).encode()

ALPHABET = b"abcdefghijklmnopqrstuvwxyz"
FAN_OUT_BYTES = 100
# The smallest window of a peer (PROTOCOL.md, Hello); one item of this size uses it up.
WINDOW_BYTES = 65_536


def pattern(size: int) -> bytes:
    """Return the payload of this size that the load generator sends and expects."""
    return (ALPHABET * (size // len(ALPHABET) + 1))[:size]


def request_bytes(method: str, size: int) -> int:
    """Return the size on the wire of a Request of the load generator: header, mask, request."""
    message = 6 + len(method) + size
    return message + 4 + (2 if message < 126 else 4 if message < 65536 else 10)
