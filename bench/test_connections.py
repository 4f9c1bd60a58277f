"""Many connections: opening handshakes, a broadcast to all, and a cut of one with very many calls.

Server and load are separate processes, because each may have only 20,000 descriptors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bench.arena import Server
from bench.loading import FanOut, load
from bench.mass_abort import MassAbort

HANDSHAKES = 1000
CALLS = 100_000


@pytest.mark.parametrize("at_a_time", [1, 50])
def test_a_thousand_connections_are_opened(measure: Any, server: Server, at_a_time: int) -> None:
    """Each is cut once it is open; a round includes milliseconds for the start of the load generator."""
    result = measure.pedantic(
        load,
        ("connect", server.port),
        {"connections": at_a_time, "count": HANDSHAKES},
        rounds=10,
        warmup_rounds=1,
    )
    assert result["connections"] == HANDSHAKES
    measure.extra_info["connections"] = HANDSHAKES


@pytest.fixture(params=[1000, 10_000])
def receivers(request: pytest.FixtureRequest, server: Server) -> Iterator[FanOut]:
    with FanOut(server.port, request.param) as receivers:
        yield receivers


def test_a_broadcast_reaches_everybody(measure: Any, receivers: FanOut) -> None:
    """Measure 100 bytes from the request for the broadcast until the last connection has it."""
    measure.pedantic(receivers.broadcast, rounds=20, warmup_rounds=1)


def test_a_hundred_thousand_calls_are_aborted(measure: Any, raised_server: Server) -> None:
    """Measure from the cut until all have unwound, whose progress another connection polls."""
    held: list[MassAbort] = []
    waits: list[float] = []

    def set_up() -> None:
        held[:] = [MassAbort(raised_server.port, CALLS)]

    def cut() -> None:
        waits.append(held[0].cut()["longest_wait"])

    def tear_down() -> None:
        held[0].observer.socket.close()

    measure.pedantic(cut, setup=set_up, teardown=tear_down, rounds=5)
    measure.extra_info["longest_wait"] = max(waits)
