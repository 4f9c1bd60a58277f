"""The time from the bytes of a reset to the CancelledError in the handler, on a loop that is already running.

`python -m bench.reset_in_process RESETS` prints JSON: microseconds, and the iteration of the loop in
which the handler was cancelled; 1 is the next one. There is no socket.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import uvloop

import sockrpc
from bench.engine import Engine
from bench.peer import feed, request, reset
from bench.tables import quantiles

WARM_UP = 500


class Iterations:
    """Counts the iterations of the loop since a reset was read."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.count = 0
        self.handle: asyncio.Handle | None = None

    def restart(self) -> None:
        """Call this right after the reset, so that callbacks scheduled for the next iteration come first."""
        self.stop()
        self.count = 1
        self.handle = self.loop.call_soon(self.turn)

    def turn(self) -> None:
        self.count += 1
        self.handle = self.loop.call_soon(self.turn)

    def stop(self) -> None:
        if self.handle is not None:
            self.handle.cancel()


def measure(resets: int) -> dict[str, Any]:
    """Measure `resets` resets, one after another, after a few that do not count."""
    app = sockrpc.App()
    begun = asyncio.Event()
    stopped: list[tuple[int, int]] = []
    iterations: list[Iterations] = []

    @app.method("wait")
    async def wait(call: sockrpc.Call) -> None:
        begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            stopped.append((time.perf_counter_ns(), iterations[0].count))
            raise

    engine = Engine(app, uvloop.new_event_loop())
    frames = [(request(number, "wait", 0), reset(number)) for number in range(WARM_UP + resets)]
    sent: list[int] = []

    async def run() -> None:
        iterations.append(Iterations(asyncio.get_running_loop()))
        for begins, ends in frames:
            begun.clear()
            feed(engine.protocol, begins)
            await begun.wait()
            # The transport is paused if the system interrupted a handler; a real one would not read then.
            while engine.transport.is_paused:  # noqa: ASYNC110
                await asyncio.sleep(0)
            sent.append(time.perf_counter_ns())
            feed(engine.protocol, ends)
            iterations[0].restart()
            while len(stopped) < len(sent):  # noqa: ASYNC110
                await asyncio.sleep(0)
        iterations[0].stop()

    try:
        engine.loop.run_until_complete(run())
        assert engine.here.server.statistics().calls_reset == len(frames)
    finally:
        engine.close()
    pairs = list(zip(sent, stopped, strict=True))[WARM_UP:]
    return {
        "us": quantiles([(after[0] - before) / 1000 for before, after in pairs]),
        "iterations": max(after[1] for _, after in pairs),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(int(sys.argv[1]))) + "\n")
