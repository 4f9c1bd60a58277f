"""The script of `python -m sockrpc.bench selftest`, which also serves as an example."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import sockrpc

if TYPE_CHECKING:
    from sockrpc.bench.loopback import Bench

__all__ = ["bench_join", "bench_reset_to_abort", "bench_sixteen_calls", "make_app"]


def make_app() -> sockrpc.App:
    """Make a server that answers with the payload, or works until it is reset."""
    app = sockrpc.App()

    @app.method("echo")
    async def echo(call: sockrpc.Call) -> bytes:
        return call.payload

    @app.method("work")
    async def work(call: sockrpc.Call) -> None:
        await asyncio.Event().wait()

    return app


def bench_join() -> None:
    """Time the whole function."""
    ",".join(str(number) for number in range(1000))


async def bench_sixteen_calls(bench: Bench) -> AsyncIterator[Any]:
    """Set up before `yield`, and time the yielded operation."""
    async with bench.loopback(make_app()) as here:
        yield lambda: here.calls(16, "echo", b"hello")


async def bench_reset_to_abort(bench: Bench) -> AsyncIterator[Any]:
    """Time a reset until the work that it aborts has ended."""
    async with bench.loopback(make_app()) as here:
        yield here.resets("work")
