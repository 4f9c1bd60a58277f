"""A generator that has swallowed its abort and yields again is closed, wherever the abort has reached it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

import sockrpc
from sockrpc import Outcome
from tests.kit.support import serving, until

V1 = ("sockrpc.v1",)


@pytest.mark.parametrize("at", ["yield", "await"])
async def test_a_generator_that_swallows_its_abort_and_yields_again_is_closed(at: str) -> None:
    app, said = sockrpc.App(), list[str]()

    @app.method("stubborn")
    async def stubborn(call: sockrpc.Call) -> AsyncIterator[bytes]:
        try:
            while True:
                try:
                    # The first item leaves credit, the second none.
                    yield bytes(1) if at == "await" else bytes(65_536)
                    if at == "await":
                        said.append("waits")
                        await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    said.append("swallowed")
                    yield b"again"
                    said.append("goes on")
        finally:
            said.append("closed")

    async with (
        serving(app) as serve,
        serve.connect(protocols=V1, window_bytes=65_536) as client,
        client.stream("stubborn") as stream,
    ):
        await anext(stream)
        if at == "await":
            await until(lambda: said == ["waits"])
        assert await stream.cancel() is Outcome.PARTIAL
        assert said[-2:] == ["swallowed", "closed"]


async def test_a_generator_that_runs_to_completion_goes_on_after_a_reset() -> None:
    app, said = sockrpc.App(), list[str]()

    @app.method("count", run_to_completion=True)
    async def count(call: sockrpc.Call) -> AsyncIterator[str]:
        for number in range(3):
            yield str(number)
            await call.wait_reset()
            try:
                # A time-out of its own is no abort.
                async with asyncio.timeout(0):
                    yield "late"
                    await asyncio.sleep(3600)
            except TimeoutError:
                said.append(f"{number} is late")

    async with (
        serving(app) as serve,
        serve.connect(protocols=V1) as client,
        client.stream("count") as stream,
    ):
        assert await anext(stream) == b"0"
        assert await stream.cancel() is Outcome.COMPLETED
        assert said == ["0 is late", "1 is late", "2 is late"]
