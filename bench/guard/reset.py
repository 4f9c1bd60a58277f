"""The time from the reset of a call to the end of the work that it aborts, over the loopback network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import sockrpc

app = sockrpc.App()


@app.method("waiting")
async def waiting(call: sockrpc.Call) -> None:
    await asyncio.get_running_loop().create_future()


async def bench_reset_to_abort(bench: Any) -> AsyncIterator[Any]:
    async with bench.loopback(app) as here:
        yield here.resets("waiting")
