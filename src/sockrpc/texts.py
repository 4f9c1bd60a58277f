"""Text of peers, made safe to display."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    """Return the text in one line, with everything escaped that is not printable.

    Every message and every log line with a peer's text uses this or `repr`.
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text
    )
