"""RFC 6455 over one asyncio transport: bytes, messages, closing, keepalive, handshake, deflate."""

from __future__ import annotations

__all__: list[str] = []
