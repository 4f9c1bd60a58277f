"""The documented order of hooks, handlers and spawned tasks holds under every task factory of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from websockets.http11 import Request

import sockrpc
from tests.kit.support import request, reset, serving, until


def plain_factory(loop: Any, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    options.pop("eager_start", None)
    return asyncio.Task(coroutine, loop=loop, **options)


def eager_factory(loop: Any, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    # asyncio's own does not take what uvloop gives it, before Python 3.13.3.
    return asyncio.Task(coroutine, loop=loop, **{**options, "eager_start": True})


FACTORIES: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "plain": plain_factory,
    "eager": eager_factory if hasattr(asyncio, "eager_task_factory") else None,
}


@pytest.fixture(params=FACTORIES)
def factory(request: pytest.FixtureRequest) -> Callable[..., Any] | None:
    if request.param == "eager" and FACTORIES["eager"] is None:
        pytest.skip("this Python has no eager tasks")
    return FACTORIES[request.param]


async def test_hooks_and_handlers_begin_and_end_in_the_documented_order(
    factory: Callable[..., Any] | None,
) -> None:
    asyncio.get_running_loop().set_task_factory(factory)
    seen: list[str] = []
    app = sockrpc.App()

    async def process_request(socket: sockrpc.Socket, request: Request) -> None:
        seen.append("process_request")

    @app.on_connect
    async def connected(socket: sockrpc.Socket) -> None:
        await asyncio.sleep(0)
        seen.append("on_connect")

    @app.on_disconnect
    async def gone(socket: sockrpc.Socket) -> None:
        seen.append("on_disconnect")

    @app.method
    async def work(call: sockrpc.Call) -> str:
        seen.append("handler")
        call.spawn_and_abort_on_reset(spawned())
        seen.append("spawned by handler")
        return "done"

    async def spawned() -> None:
        seen.append("task")

    async with serving(app, process_request=process_request) as here:
        async with here.connect() as client:
            assert await client.call("work", timeout=5) == b"done"
            await until(lambda: "task" in seen)
        await until(lambda: "on_disconnect" in seen)
        statistics = here.server.statistics()
        assert (statistics.calls_running, statistics.connections) == (0, 0)
    assert seen == [
        "process_request",
        "on_connect",
        "handler",
        "spawned by handler",
        "task",
        "on_disconnect",
    ]


async def test_a_task_that_is_spawned_on_an_aborted_call_never_takes_a_step(
    factory: Callable[..., Any] | None,
) -> None:
    asyncio.get_running_loop().set_task_factory(factory)
    app = sockrpc.App()
    calls: list[sockrpc.Call] = []
    steps: list[str] = []

    @app.method
    async def work(call: sockrpc.Call) -> None:
        calls.append(call)
        await asyncio.Event().wait()

    async def step() -> None:
        steps.append("taken")

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        await until(lambda: calls)
        await raw.send(reset(1))
        await until(lambda: calls[0].is_reset)
        task = calls[0].spawn_and_abort_on_reset(step())
        await asyncio.wait([task])
        assert task.cancelled()
    assert not steps


async def test_the_coroutine_of_a_socket_runs_and_is_over_with_its_connection(
    factory: Callable[..., Any] | None,
) -> None:
    asyncio.get_running_loop().set_task_factory(factory)
    ended: list[str] = []

    async def handle(socket: sockrpc.Socket) -> None:
        async for procedure in socket:
            assert isinstance(procedure, sockrpc.Call)
            await procedure.respond(procedure.payload)
        ended.append("iteration")

    async with serving(handle, max_connections=1) as here:
        for _ in range(3):
            async with here.connect() as client:
                assert await client.call("x", b"y") == b"y"
            await until(lambda: here.server.statistics().connections == 0)
    assert ended == ["iteration"] * 3
