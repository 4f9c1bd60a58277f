"""Whole calls over the loopback network, the server on a core of its own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import sockrpc
from bench.arena import Server
from bench.peer import Peer, request, response_size
from tests.kit.loops import LOOPS, new_event_loop

SIZES = [32, 1024, 64 * 1024, 1024 * 1024]
IN_FLIGHT = [1, 16, 256]
KINDS = ["plain", "coroutine", "suspending"]
# Up to this size all requests go out in one write, and their answers fit into the system's buffers.
LITTLE = 64 * 1024


def exchange(measure: Any, peer: Peer, kind: str, size: int, in_flight: int) -> None:
    pieces = [request(number, kind, size) for number in range(in_flight)]
    wanted = in_flight * response_size(size)
    if wanted <= LITTLE:
        measure(peer.exchange, b"".join(pieces), wanted)
    else:
        measure.pedantic(
            peer.exchange_much, (pieces, wanted), rounds=max(5, 2**26 // wanted // 4), warmup_rounds=1
        )
    measure.extra_info["calls"] = in_flight


@pytest.mark.parametrize("in_flight", IN_FLIGHT)
@pytest.mark.parametrize("size", SIZES)
def test_answers_of_a_server(measure: Any, peer: Peer, size: int, in_flight: int) -> None:
    """The client costs almost nothing: its bytes are made beforehand, and it only counts received ones."""
    exchange(measure, peer, "plain", size, in_flight)


@pytest.mark.parametrize("in_flight", IN_FLIGHT)
@pytest.mark.parametrize("kind", KINDS)
def test_answers_by_kind_of_handler(measure: Any, peer: Peer, kind: str, in_flight: int) -> None:
    exchange(measure, peer, kind, 32, in_flight)


@pytest.mark.parametrize("in_flight", IN_FLIGHT)
@pytest.mark.parametrize("size", SIZES)
def test_calls_of_a_client(measure: Any, server: Server, size: int, in_flight: int) -> None:
    """Measure the calls that one Python process can make with `sockrpc.connect`."""
    loop = new_event_loop(LOOPS[-1])
    payload = bytes(size)
    uri = f"ws://127.0.0.1:{server.port}/"
    client = loop.run_until_complete(connected(uri))

    async def call() -> None:
        answers = await asyncio.gather(*(client.call("plain", payload) for _ in range(in_flight)))
        assert len(answers[-1]) == size

    try:
        measure.pedantic(
            lambda: loop.run_until_complete(call()),
            rounds=min(2000, max(5, 2**26 // in_flight // (size + 2000))),
            warmup_rounds=1,
        )
    finally:
        loop.run_until_complete(client.close())
        loop.close()
    measure.extra_info["calls"] = in_flight


async def connected(uri: str) -> sockrpc.Client:
    return await sockrpc.connect(uri, ping_interval=None)
