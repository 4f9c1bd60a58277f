"""Deadlines travel from blocks and arguments to the peer, and through handlers to their own calls."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import sockrpc
from sockrpc import Code, Outcome
from tests.faults.proxy import Proxy
from tests.kit.command import Command
from tests.kit.support import PATIENCE, serving, started, until

V1 = ("sockrpc.v1",)
PROGRAM = Path(__file__).parents[1] / "kit" / "deadline_server.py"


def left_at(call: sockrpc.Call) -> str:
    """What a call has left where it arrives."""
    if call.deadline is None:
        assert call.remaining is None
        return "none"
    assert call.remaining is not None
    assert call.remaining <= call.deadline - asyncio.get_running_loop().time() + 0.1
    return str(call.remaining)


def seconds(answer: bytes) -> float | None:
    return None if answer == b"none" else float(answer)


@contextlib.asynccontextmanager
async def asking() -> AsyncIterator[Callable[..., Any]]:
    """A function that calls, and returns the seconds that are left at the peer; None for no limit."""
    app = sockrpc.App()
    app.method("left")(left_at)
    async with serving(app) as here, here.connect(protocols=V1) as client, asyncio.timeout(PATIENCE):

        async def left(**options: Any) -> float | None:
            return seconds(await client.call("left", **options))

        yield left


def about(left: float | None, wanted: float) -> bool:
    return left is not None and wanted - 5.0 <= left <= wanted + 0.001


async def test_the_time_of_a_call_travels() -> None:
    async with asking() as left:
        assert await left() is None
        assert about(await left(timeout=20), 20.0)


async def test_the_time_of_a_block_travels_with_each_call_in_it() -> None:
    async with asking() as left:
        async with sockrpc.timeout(20):
            assert about(await left(), 20.0)
        with sockrpc.deadline(30):
            assert about(await left(), 30.0)
            # Tasks that are made inside take it along.
            assert about(await asyncio.create_task(left()), 30.0)
        assert await left() is None


async def test_the_earliest_of_several_holds() -> None:
    async with asking() as left:
        with sockrpc.deadline(40):
            assert about(await left(timeout=20), 20.0)
            assert about(await left(timeout=60), 40.0)
            with sockrpc.deadline(60):
                assert about(await left(), 40.0)
                with sockrpc.deadline(20):
                    assert about(await left(), 20.0)
            async with sockrpc.timeout(20):
                assert about(await left(), 20.0)
            async with sockrpc.timeout(None):
                assert about(await left(), 40.0)


async def test_none_opts_out_of_all_around() -> None:
    async with asking() as left:
        with sockrpc.deadline(20), sockrpc.deadline(60):
            with sockrpc.deadline(None):
                assert await left() is None
                assert about(await left(timeout=30), 30.0)
                with sockrpc.deadline(40):
                    assert about(await left(), 40.0)
            assert about(await left(), 20.0)


async def test_a_deadline_bounds_the_calls_and_not_the_code_between() -> None:
    async with asking() as left:
        with sockrpc.deadline(0.02):
            await asyncio.sleep(0.03)
            with pytest.raises(sockrpc.DeadlineExceeded) as raised:
                await left()
            assert raised.value.outcome is Outcome.NOT_STARTED
            with sockrpc.deadline(None):
                assert await left() is None


async def test_a_timeout_ends_the_code_too_and_resets_what_runs() -> None:
    app = sockrpc.App()
    reasons: list[str | None] = []

    @app.method
    async def work(call: sockrpc.Call) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            reasons.append(call.abort_reason)

    async with serving(app) as here, here.connect(protocols=V1) as client, asyncio.timeout(PATIENCE):
        with pytest.raises(TimeoutError):
            async with sockrpc.timeout(0.1):
                await client.call("work")
        with pytest.raises(TimeoutError):
            async with sockrpc.timeout(0.01):
                await asyncio.sleep(3600)
        await until(lambda: reasons)
    # Both clocks run.
    assert reasons[0] in {"reset", "timeout"}


@pytest.mark.parametrize("wrong", [-1, float("nan"), "soon"])
async def test_what_is_no_number_of_seconds_is_refused(wrong: Any) -> None:
    with pytest.raises(sockrpc.UsageError), sockrpc.deadline(wrong):
        raise AssertionError
    with pytest.raises(sockrpc.UsageError):
        async with sockrpc.timeout(wrong):
            raise AssertionError


# In handlers


@contextlib.asynccontextmanager
async def asking_through(handler: Callable[..., Any], **options: Any) -> AsyncIterator[sockrpc.Client]:
    """A client of a server whose `relay` is `handler(call, left)`, where `left` asks a server behind it."""
    async with asking() as left:
        app = sockrpc.App()

        async def relay(call: sockrpc.Call) -> str | None:
            answer = await handler(call, left)
            return answer if answer is None else str(answer)

        app.method("relay", **options)(relay)
        async with serving(app) as here, here.connect(protocols=V1) as client:
            yield client


async def test_a_handler_passes_on_what_it_has_left() -> None:
    async def relay(call: sockrpc.Call, left: Any) -> float:
        await asyncio.sleep(0.05)
        return await left() or 0.0

    async with asking_through(relay) as client:
        assert 15.0 <= float(await client.call("relay", timeout=20)) <= 19.96
        assert float(await client.call("relay")) == 0.0


async def test_the_time_of_the_method_itself_is_passed_on_too_if_it_is_the_earlier() -> None:
    async def relay(call: sockrpc.Call, left: Any) -> str:
        assert call.remaining is not None
        assert call.deadline is not None
        return f"{call.remaining} {await left()}"

    async with asking_through(relay, timeout=30) as client:
        for limit, wanted in ((None, 30.0), (60, 30.0), (20, 20.0)):
            answer = await client.call("relay", timeout=limit)
            assert [about(float(each), wanted) for each in answer.split()] == [True, True], (limit, answer)


async def test_in_a_handler_blocks_and_arguments_hold_as_elsewhere() -> None:
    async def relay(call: sockrpc.Call, left: Any) -> str:
        with sockrpc.deadline(60):
            assert about(await left(), 40.0)
        with sockrpc.deadline(20):
            assert about(await left(), 20.0)
        with sockrpc.deadline(None):
            assert await left() is None
        assert about(await left(timeout=10), 10.0)
        return "right"

    async with asking_through(relay) as client:
        assert await client.call("relay", timeout=40) == b"right"


@pytest.mark.parametrize("how", ["answered", "aborted"])
async def test_what_goes_on_after_the_call_has_time_again(how: str) -> None:
    seen: dict[str, float | None] = {}

    async def relay(call: sockrpc.Call, left: Any) -> None:
        seen["before"] = await left()
        if how == "answered":
            await call.respond(b"")
        if how == "aborted":
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)
        seen["after"] = await left()
        with sockrpc.deadline(60):
            seen["block"] = await left()

    async with asking_through(relay) as client:
        call = await started(client.call("relay", timeout=20))
        await until(lambda: "before" in seen)
        if how == "aborted":
            call.cancel()
        await asyncio.wait([call])
        await until(lambda: "block" in seen)
    assert about(seen["before"], 20.0)
    assert seen["after"] is None
    assert about(seen["block"], 60.0)


async def test_a_task_that_outlives_the_call_leaves_its_deadline_but_not_that_of_the_block() -> None:
    seen: list[float | None] = []
    go = asyncio.Event()
    tasks: list[asyncio.Task[None]] = []

    async def relay(call: sockrpc.Call, left: Any) -> None:
        async def task() -> None:
            seen.append(await left())
            await go.wait()
            seen.append(await left())

        with sockrpc.deadline(60):
            tasks.append(asyncio.create_task(task()))
        await until(lambda: seen)

    async with asking_through(relay) as client:
        await client.call("relay", timeout=20)
        go.set()
        await tasks[0]
    assert about(seen[0], 20.0)
    assert about(seen[1], 60.0)
    assert (seen[1] or 0.0) > 20.0


async def test_a_call_that_waits_at_its_callers_loses_that_time() -> None:
    app = sockrpc.App()
    app.method("left")(left_at)
    go = asyncio.Event()

    @app.method
    async def block(call: sockrpc.Call) -> None:
        await go.wait()

    async with serving(app, max_calls=1) as here, here.connect(protocols=V1) as client:
        first = await started(client.call("block"))
        second = await started(client.call("left", timeout=20))
        third = await started(client.call("left", timeout=0.05))
        await asyncio.wait([third])
        with pytest.raises(sockrpc.DeadlineExceeded) as raised:
            await third
        assert (raised.value.code, raised.value.outcome) == (Code.DEADLINE_EXCEEDED, Outcome.NOT_STARTED)
        go.set()
        await first
        assert (seconds(await second) or 60.0) <= 19.96


# Three processes

AWAY = 0.08  # seconds, each way between the client and the first server
TIME = 0.6
BEFORE = 0.1  # what the first server does before it calls the second


@pytest.mark.parametrize("line", ["flows", "stalls"])
async def test_work_two_servers_away_stops_within_a_round_trip_of_the_clients_clock(line: str) -> None:
    with contextlib.ExitStack() as stack:
        second = stack.enter_context(Command(program=(str(PROGRAM),)))
        second_port = int(second.line())
        first = stack.enter_context(Command(str(second_port), program=(str(PROGRAM),)))
        late = []
        async with (
            Proxy(int(first.line())) as proxy,
            sockrpc.connect(f"ws://127.0.0.1:{second_port}/", protocols=V1) as witness,
            asyncio.timeout(3 * PATIENCE),
        ):
            proxy.up.delay = proxy.down.delay = lambda: AWAY
            async with sockrpc.connect(proxy.uri, protocols=V1) as client:
                for _ in range(5):
                    began = time.monotonic()
                    call = await started(client.call("work", str(BEFORE), timeout=TIME))
                    if line == "stalls":
                        # The request is on its way; the reset will never come.
                        await asyncio.sleep(AWAY + BEFORE)
                        proxy.up.stall()
                    with pytest.raises(sockrpc.DeadlineExceeded):
                        await call
                    assert time.monotonic() - began >= TIME - 0.01
                    entry = await aborted(witness)
                    proxy.up.flow()
                    assert 0.0 < entry["left"] <= TIME - BEFORE + 0.002
                    late.append(entry["aborted"] - (began + TIME))
                    first_entry = json.loads(await client.call("report"))[-1]
                    assert entry["left"] <= first_entry["left"] - BEFORE + 0.01
                    assert first_entry["left"] <= TIME
            # One way for the request or for the reset; the rest of a round trip is for the busy machine.
            assert statistics.median(late) <= 2 * AWAY, late
            assert min(late) >= -0.01, late


async def aborted(witness: sockrpc.Client) -> dict[str, Any]:
    """The record of the last call of the second server, once that was aborted."""
    while True:
        entry: dict[str, Any] = json.loads(await witness.call("report"))[-1]
        if entry["aborted"] is not None:
            return entry
        await asyncio.sleep(0.005)
