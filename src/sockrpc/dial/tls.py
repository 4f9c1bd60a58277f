"""TLS for clients: one default context per process."""

from __future__ import annotations

import asyncio
import ssl
import threading

__all__ = ["default_context"]

_LOCK = threading.Lock()
# A list that holds the context once it is made.
_MADE: list[ssl.SSLContext] = []


async def default_context() -> ssl.SSLContext:
    """Return the context that verifies by the system's certificates, which a thread reads once."""
    return _MADE[0] if _MADE else await asyncio.to_thread(make_context)


def make_context() -> ssl.SSLContext:
    """Make the context, or return it; called in a thread because reading takes tens of milliseconds."""
    # Several threads may ask before the first has made it.
    with _LOCK:
        if not _MADE:
            _MADE.append(ssl.create_default_context())
    return _MADE[0]
