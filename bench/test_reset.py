"""The time until cancelled work stops."""

from __future__ import annotations

import asyncio
from typing import Any

import sockrpc
from bench.arena import Server
from bench.engine import Engine
from bench.loading import Load
from bench.peer import Peer, feed, request, reset

ROUNDS = 2000


def test_a_reset_reaches_the_handler(measure: Any) -> None:
    """Measure from the bytes of the reset to the CancelledError in the handler, in one process."""
    app = sockrpc.App()
    stopped: list[asyncio.Future[None]] = []

    @app.method("wait")
    async def wait(call: sockrpc.Call) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            stopped[0].set_result(None)
            raise

    engine = Engine(app)

    async def begin() -> None:
        feed(engine.protocol, request(1, "wait", 0))
        # Without eager tasks the first step of the handler comes in the next iteration.
        await asyncio.sleep(0)

    def set_up() -> None:
        stopped[:] = [engine.loop.create_future()]
        engine.loop.run_until_complete(begin())

    def stop() -> None:
        engine.loop.call_soon(feed, engine.protocol, reset(1))
        engine.loop.run_until_complete(stopped[0])

    try:
        measure.pedantic(stop, setup=set_up, rounds=ROUNDS)
        assert engine.here.server.statistics().calls_reset == ROUNDS
    finally:
        engine.close()


def test_a_reset_stops_the_work_of_a_server(measure: Any, peer: Peer) -> None:
    """Measure from sending the reset to the report of the cancelled handler, over the loopback network."""
    running = 2 + 2 + len("running")
    aborted = 2 + 2 + len("aborted")

    def set_up() -> None:
        peer.exchange(request(1, "wait", 0), running)

    def stop() -> None:
        peer.exchange(reset(1), aborted)

    measure.pedantic(stop, setup=set_up, rounds=ROUNDS)


def test_a_reset_stops_the_work_of_a_busy_server(measure: Any, server: Server, peer: Peer) -> None:
    """Measure the same while 32 connections keep 16 calls in flight each.

    Their load and this client share a core; `make bench-targets` measures it inside the load generator.
    """
    with Load(server.port, connections=32, in_flight=16):
        running = 2 + 2 + len("running")
        aborted = 2 + 2 + len("aborted")

        def set_up() -> None:
            peer.exchange(request(1, "wait", 0), running)

        measure.pedantic(lambda: peer.exchange(reset(1), aborted), setup=set_up, rounds=ROUNDS)
