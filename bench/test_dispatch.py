"""The engine alone, from bytes received to bytes written, in one process and without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

import sockrpc
from bench.engine import Engine
from bench.peer import feed, request, response_size
from sockrpc.peer.names import NameTable
from sockrpc.testing.wire import Table

BATCH = 1000


@pytest.mark.parametrize("in_flight", [0, 10_000])
def test_a_thousand_ids_enter_and_leave_the_table(measure: Any, in_flight: int) -> None:
    table = Table()
    others = [table.new() for _ in range(in_flight)]

    def turn_over() -> None:
        entries = [table.new() for _ in range(BATCH)]
        for entry in entries:
            assert entry is not None
            table.take(entry)

    measure(turn_over)
    assert len(table) == len(others) == in_flight


def test_the_twin_in_python_of_entering_and_leaving(measure: Any) -> None:
    """Measure the same with a dict, for comparison with the benchmark above."""
    table: dict[int, object] = {}

    def turn_over() -> None:
        entries = []
        for number in range(BATCH):
            entry = object()
            table[number] = entry
            entries.append((number, entry))
        for number, entry in entries:
            if table.get(number) is entry:
                del table[number]

    measure(turn_over)
    assert not table


def test_one_method_among_a_hundred_is_found(measure: Any) -> None:
    names = NameTable({b"method %d" % number: number for number in range(100)})
    assert measure(names.get, b"method 77") == 77


@pytest.fixture
def engine() -> Iterator[Engine]:
    app = sockrpc.App()
    app.method("plain")(lambda call: call.payload)

    @app.method("coroutine")
    async def coroutine(call: sockrpc.Call) -> bytes:
        return call.payload

    @app.method("suspending")
    async def suspending(call: sockrpc.Call) -> bytes:
        await asyncio.sleep(0)
        return call.payload

    engine = Engine(app)
    yield engine
    engine.close()


@pytest.mark.parametrize("kind", ["plain", "coroutine", "suspending"])
def test_a_thousand_calls_of_one_read_are_answered(measure: Any, engine: Engine, kind: str) -> None:
    data = b"".join(request(number, kind, 32) for number in range(BATCH))
    wanted = BATCH * response_size(32)

    async def answered() -> None:
        engine.transport.written_bytes = 0
        feed(engine.protocol, data)
        while engine.transport.written_bytes < wanted:  # noqa: ASYNC110
            await asyncio.sleep(0)

    measure(lambda: engine.loop.run_until_complete(answered()))
    assert engine.transport.written_bytes == wanted
    assert engine.here.server.statistics().calls_failed == 0
