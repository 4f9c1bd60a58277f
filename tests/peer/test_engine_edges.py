"""What random scripts found or can not reach, each by itself: see test_engine.py."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest

import sockrpc
from sockrpc.testing.memory import Pair
from tests.kit.pair import MemoryServer
from tests.kit.support import PATIENCE, request, reset, serving, started, until

HIGH = 200


async def test_requests_beyond_the_high_water_mark_are_not_written() -> None:
    """A call that is cancelled before its request was written is to cost nothing."""
    app = sockrpc.App()
    app.method("echo")(lambda call: call.payload)
    async with MemoryServer(app) as here:
        limits = {"output_high_bytes": HIGH, "output_low_bytes": 50}
        client, pair = here.connect(capacity=1, limits=limits)
        calls = [await started(client.call("echo", b"%03d" % number)) for number in range(3)]
        # All of these are made in one iteration, and written at its end.
        calls += [asyncio.ensure_future(client.call("echo", b"%03d" % number)) for number in range(3, 100)]
        for _ in range(3):
            await asyncio.sleep(0)
        one_request = len(request(1, "echo", b"000"))
        assert HIGH <= written(pair) <= HIGH + one_request
        calls[-1].cancel()
        await here.settle()
        assert [call.result() for call in calls[:-1]] == [b"%03d" % number for number in range(99)]
        assert here.server.statistics().calls_started == 99


def written(pair: Pair) -> int:
    """What the client has written and its server has not read."""
    return len(pair.client.on_its_way) + pair.client.get_write_buffer_size()


def test_a_hundred_thousand_calls_are_made_in_one_iteration() -> None:
    # In a process of its own: what it is about is that nothing overflows the stack.
    program = """
import asyncio, sockrpc

async def main():
    app = sockrpc.App()
    app.method("echo")(lambda call: call.payload)
    # One iteration is what it asks for, however long a busy machine takes for it.
    async with sockrpc.serve(app, "127.0.0.1", 0, blocked_warning=None) as server:
        port = server.sockets[0].getsockname()[1]
        async with sockrpc.connect(f"ws://127.0.0.1:{port}/", protocols=("websocket.io-rpc-v0.1",)) as client:
            calls = [client.call("echo", b"12 bytes....") for _ in range(100_000)]
            answers = await asyncio.gather(*calls)
            assert answers == [b"12 bytes...."] * 100_000

asyncio.run(main())
"""
    command = [sys.executable, "-P", "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, timeout=10 * PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("ending", ["returns", "fails"])
async def test_a_handler_that_waits_for_the_reset_of_a_call_it_has_answered_ends_with_the_connection(
    ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = sockrpc.App()
    log: list[str] = []

    @app.method("early")
    async def early(call: sockrpc.Call) -> None:
        if ending == "fails":

            async def fail() -> None:
                raise RuntimeError("on purpose")

            call.spawn_and_abort_on_reset(fail())
        else:
            await call.respond("early")
        log.append("waits")
        try:
            await call.wait_reset()
        finally:
            log.append("ends")

    async with serving(app) as here:
        raw = await here.raw()
        await raw.send(request(1, "early"))
        await until(lambda: log == ["waits"])
        await raw.synchronize() if ending == "fails" else await raw.answer()
        await raw.close()
        await until(lambda: here.server.statistics().connections == 0)
        for _ in range(20):
            await asyncio.sleep(0)
        statistics = here.server.statistics()
        assert (log, statistics.calls_running) == (["waits", "ends"], 0)


async def test_a_handler_that_answers_and_closes_its_own_connection_is_cancelled_like_any_other() -> None:
    app = sockrpc.App()
    log: list[str] = []

    @app.method("close")
    async def close(call: sockrpc.Call) -> None:
        await call.respond("answered")
        try:
            await call.socket.close()
            log.append("goes on")
            await asyncio.get_running_loop().create_future()
        finally:
            log.append("ends")

    async with serving(app) as here, here.connect() as client:
        assert await client.call("close") == b"answered"
        await client.wait_closed()
        for _ in range(20):
            await asyncio.sleep(0)
        assert (log[-1:], here.server.statistics().calls_running) == (["ends"], 0)


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="eager tasks came with Python 3.12")
async def test_a_task_of_the_handler_that_waits_for_the_reset_does_not_keep_it_from_the_handler() -> None:
    app = sockrpc.App()
    log: list[str] = []

    @app.method("watched")
    async def watched(call: sockrpc.Call) -> None:
        async def watch() -> None:
            await call.wait_reset()
            log.append("watcher told")

        # With an eager factory its first step runs inside the handler's own first step.
        watcher = asyncio.create_task(watch())
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            log.append("handler cancelled")
            await watcher

    def eager(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        # asyncio's own of 3.13.0 refuses what uvloop 0.23 hands it.
        return asyncio.Task(coroutine, loop=loop, **(options | {"eager_start": True}))

    asyncio.get_running_loop().set_task_factory(eager)
    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "watched"))
        await raw.synchronize()
        await raw.send(reset(1))
        await raw.synchronize()
        await until(lambda: "watcher told" in log)
        for _ in range(20):
            await asyncio.sleep(0)
        assert sorted(log) == ["handler cancelled", "watcher told"]
