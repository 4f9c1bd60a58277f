"""The event loops on which tests run; in a module of its own, as programs of tests import no more."""

from __future__ import annotations

import asyncio
import importlib.util
import os

# Under a tracer (make cover), one of them has to do.
LOOPS = os.environ.get("SOCKRPC_LOOPS", "").split() or [
    "asyncio",
    *(["uvloop"] if importlib.util.find_spec("uvloop") else []),
]


def new_event_loop(kind: str) -> asyncio.AbstractEventLoop:
    if kind == "uvloop":
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()
