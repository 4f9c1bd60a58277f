"""Many connections: opening handshakes, a broadcast to all, and one that is cut with very many calls.

Server and load are separate processes here, as each may have 20,000 descriptors only.
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
    """Each is cut when it is open; a round has some milliseconds in which the load generator starts."""
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
    """100 bytes, from asking for it until the last connection has it."""
    measure.pedantic(receivers.broadcast, rounds=20, warmup_rounds=1)


def test_a_hundred_thousand_calls_are_aborted(measure: Any, raised_server: Server) -> None:
    """From cutting their connection until all have unwound; another connection asks how far they are."""
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
