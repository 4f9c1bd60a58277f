"""Text of peers, made fit for people's eyes."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    """The same text in one line, in which nothing moves the cursor: what is not printable is escaped.

    Every message and every line of the log that takes a peer's text takes it by this, or by `repr`.
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text
    )
