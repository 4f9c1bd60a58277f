"""The delays between two attempts to connect, by their documented figures."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import pytest

import sockrpc
import sockrpc.dial.reconnecting
from tests.kit.clock import new_still_loop
from tests.kit.loops import LOOPS
from tests.kit.raw_server import RawServer
from tests.kit.support import until


def test_delays_double_to_a_limit_and_spread() -> None:
    ceilings = [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    runs = [list(itertools.islice(sockrpc.dial.reconnecting.backoff(), len(ceilings))) for _ in range(50)]
    for position, ceiling in enumerate(ceilings):
        delays = [run[position] for run in runs]
        assert all(ceiling / 2 <= delay <= ceiling for delay in delays)
        assert len(set(delays)) > 25, "no jitter"


# After that the delays begin at 0.5 s again, or go on doubling.
@pytest.mark.parametrize("kind", LOOPS)
@pytest.mark.parametrize(("seconds", "anew"), [(29.9, False), (30.1, True)])
def test_the_delays_start_anew_after_thirty_seconds_of_connection(
    seconds: float, anew: bool, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = new_still_loop(kind)
    delays: list[float] = []
    backoff = sockrpc.dial.reconnecting.backoff

    def recorded() -> Iterator[float]:
        for delay in backoff():
            delays.append(delay)
            yield delay

    monkeypatch.setattr(sockrpc.dial.reconnecting, "backoff", recorded)

    async def connect(uri: str) -> None:
        # Nothing but the delays takes time here.
        async for client in sockrpc.connect(uri, ping_interval=None):
            await client.wait_closed()

    async def wait_out(attempt: int) -> None:
        await until(lambda: len(delays) == attempt)
        # The timer begins after the delay was drawn.
        await asyncio.sleep(0)
        loop.advance(delays[-1])

    async def test() -> None:
        async with RawServer() as server:
            connecting = asyncio.ensure_future(connect(server.uri))
            for attempt in range(1, 4):
                await (await server.peer()).finish()
                await wait_out(attempt)
            peer = await server.accept()
            # The client has read the answer when it answers a ping.
            await peer.synchronize()
            loop.advance(seconds)
            await peer.finish()
            await wait_out(4)
            await (await server.peer()).finish()
            connecting.cancel()
            await asyncio.wait([connecting])

    try:
        loop.run_until_complete(test())
    finally:
        loop.close()
    assert 1.0 <= delays[2] <= 2.0
    low, high = (0.25, 0.5) if anew else (2.0, 4.0)
    assert low <= delays[3] <= high
