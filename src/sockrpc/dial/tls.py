"""The TLS of clients: one default context for all of a process."""

from __future__ import annotations

import asyncio
import ssl
import threading

__all__ = ["default_context"]

_LOCK = threading.Lock()
# The one context, once it is made.
_MADE: list[ssl.SSLContext] = []


async def default_context() -> ssl.SSLContext:
    """The context that verifies by the system's certificates, which are read once, in a thread."""
    return _MADE[0] if _MADE else await asyncio.to_thread(make_context)


def make_context() -> ssl.SSLContext:
    """The same, for a thread: reading takes tens of milliseconds."""
    # Many may ask before the first has it.
    with _LOCK:
        if not _MADE:
            _MADE.append(ssl.create_default_context())
    return _MADE[0]
