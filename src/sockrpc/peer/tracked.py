"""Items of a stream that can be resumed."""

from __future__ import annotations

__all__ = ["Tracked"]


class Tracked:
    """An item with its cursor, yielded by a handler; a client that reconnects goes on behind it.

    Args:
        payload: The payload of the item.
        cursor: At most 255 bytes; `Call.resume_from` of the call that goes on.
    """

    __slots__ = ("cursor", "payload")

    def __init__(self, payload: str | bytes | bytearray | memoryview, cursor: bytes) -> None:
        self.payload = payload
        self.cursor = cursor

    def __repr__(self) -> str:
        return f"Tracked({self.payload!r}, {self.cursor!r})"
