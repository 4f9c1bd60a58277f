"""What benchmarks and tests get as `bench`: a server, clients of it, an injector of resets."""

from __future__ import annotations

import asyncio
import time

import pytest

import sockrpc
from sockrpc.bench import Bench
from sockrpc.bench.fixtures import bench

pytestmark = pytest.mark.newest

__all__ = ["bench"]  # a fixture is found by its name in the module

UNWINDING_SECONDS = 0.03


def make_app() -> sockrpc.App:
    app = sockrpc.App()

    @app.method("echo")
    def echo(call: sockrpc.Call) -> bytes:
        return call.payload

    @app.method("wait")
    async def wait(call: sockrpc.Call) -> None:
        await asyncio.get_running_loop().create_future()

    @app.method("unwind")
    async def unwind(call: sockrpc.Call) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            # Measured: the time in which work unwinds counts.
            await asyncio.sleep(UNWINDING_SECONDS)

    @app.method("poll", thread=True)
    def poll(call: sockrpc.Call) -> None:
        while not call.is_reset:
            time.sleep(0)

    return app


async def test_the_client_is_connected_to_the_server(bench: Bench) -> None:
    async with bench.loopback(make_app()) as here:
        assert await here.client.call("echo", "x") == b"x"
        assert await here.calls(3, "echo", b"y") == [b"y"] * 3
        assert (await here.connect()) is not here.client
        assert len(here.server.connections) == 2
        assert here.server.statistics().calls_answered == 4


async def test_the_options_are_those_of_a_server(bench: Bench) -> None:
    async with bench.loopback(make_app(), path="/rpc", max_in_flight=1) as here:
        assert here.uri.endswith("/rpc")
        assert await here.client.call("echo") == b""


async def test_a_coroutine_of_a_socket_is_served_too(bench: Bench) -> None:
    async def handle(socket: sockrpc.Socket) -> None:
        async for procedure in socket:
            assert isinstance(procedure, sockrpc.Call)
            await procedure.respond(b"here")

    async with bench.loopback(handle) as here:
        assert await here.client.call("anything") == b"here"


@pytest.mark.parametrize("method", ["wait", "poll"])
async def test_a_reset_is_measured_up_to_the_end_of_the_work(bench: Bench, method: str) -> None:
    async with bench.loopback(make_app()) as here:
        samples = await here.resets(method).sample(5)
        statistics = here.server.statistics()
        assert (statistics.calls_started, statistics.calls_reset, statistics.calls_running) == (5, 5, 0)
    assert samples == sorted(samples)
    assert len(samples) == 5
    assert 0 < samples[0] < 1


async def test_the_time_of_unwinding_is_part_of_it(bench: Bench) -> None:
    async with bench.loopback(make_app()) as here:
        # A timer of asyncio may be early by the clock's resolution.
        assert await here.resets("unwind")() > UNWINDING_SECONDS * 0.9


async def test_work_that_is_not_reset_is_an_error_and_not_a_good_time(bench: Bench) -> None:
    async with bench.loopback(make_app()) as here:
        with pytest.raises(RuntimeError, match="'echo' had ended before it could be reset"):
            await here.resets("echo", b"x")()


def test_a_plain_test_runs_coroutines(bench: Bench) -> None:
    async def use() -> bytes:
        async with bench.loopback(make_app()) as here:
            return await here.client.call("echo", "x")

    assert bench.run(use()) == b"x"
