"""One connection has its turn in each iteration of the loop, whatever it is that takes the time.

What is counted stands for a millisecond each, so that a turn of five has few of them. A machine that is
busy lets it have fewer.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

import sockrpc
from sockrpc.listen.server_hooks import ENDED_AT_ONCE, in_turns
from tests.kit.inside import working
from tests.kit.support import notify, request, reset, serving, until

MANY = 60
# A turn may end one late, and what is read in the same iteration may have another.
AT_ONCE = 15


class Iterations:
    """Counts what is noted in each iteration of the running loop."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self._next()

    def _next(self) -> None:
        self.counts.append(0)
        self._handle = asyncio.get_running_loop().call_soon(self._next)

    def spin(self, *_: Any) -> None:
        """Take a millisecond."""
        end = time.perf_counter() + 0.001
        while time.perf_counter() < end:
            pass
        self.note()

    def note(self, *_: Any) -> None:
        self.counts[-1] += 1

    async def all_of(self, count: int) -> int:
        """Wait until so many were noted; returns the most in one iteration."""
        await until(lambda: sum(self.counts) >= count)
        self._handle.cancel()
        assert sum(self.counts) == count
        return max(self.counts)


class Slow(logging.Handler):
    """A handler of records that takes its time."""

    iterations: Iterations | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if self.iterations is not None:
            self.iterations.spin()


@pytest.fixture
def slow() -> Iterator[Slow]:
    handler = Slow()
    logger = logging.getLogger("sockrpc.server")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def app_of(there: Iterations) -> tuple[sockrpc.App, asyncio.Event]:
    """An app whose "wait" ends when the event is set, and whose "spin" takes a millisecond."""
    app = sockrpc.App()
    gate = asyncio.Event()

    async def wait(_: Any) -> None:
        await gate.wait()

    for name, function in (("wait", wait), ("spin", there.spin)):
        app.method(name)(function)
        app.on(name)(function)
    return app, gate


@pytest.mark.parametrize("what", ["calls", "notifications"])
async def test_many_that_end_at_once_start_what_waits_in_one_turn(what: str) -> None:
    there = Iterations()
    app, gate = app_of(there)
    limits = {"max_in_flight": MANY, "max_notifications": MANY}
    async with serving(app, blocked_warning=None, **limits) as here, await here.raw() as raw:
        if what == "calls":
            sent = [request(n, "wait") for n in range(MANY)]
            sent += [request(MANY + n, "spin") for n in range(MANY)]
        else:
            sent = [notify("wait")] * MANY + [notify("spin")] * MANY
        await raw.send(*sent)
        await until(lambda: here.server.statistics().procedures_waiting == MANY)
        gate.set()
        assert await there.all_of(MANY) <= AT_ONCE


@pytest.mark.parametrize("line", ["open", "lost"])
async def test_one_task_takes_in_one_iteration_what_its_turn_admits(line: str) -> None:
    """Nothing is left out where the connection has ended: the end of a turn is not the end."""
    there = Iterations()
    gate = asyncio.Event()
    left: list[bool] = []

    async def handle(socket: sockrpc.Socket) -> None:
        await gate.wait()
        async for _ in socket:
            there.spin()
        left.append(True)

    async with serving(handle, blocked_warning=None) as here, await here.raw() as raw:
        await raw.send(*[notify("x")] * MANY)
        await until(lambda: here.server.statistics().procedures_waiting == MANY)
        if line == "lost":
            raw.reset_line()
            await until(lambda: not here.server.connections)
        gate.set()
        assert await there.all_of(MANY) <= AT_ONCE
        if line == "lost":
            await until(lambda: left)


@pytest.mark.skipif(
    sys.version_info < (3, 12), reason="first steps of tasks come in the next iteration, whatever starts them"
)
@pytest.mark.parametrize("end", ["reset", "lost"])
async def test_undo_hooks_of_many_take_several_turns(end: str) -> None:
    there = Iterations()
    app, gate = app_of(there)

    @app.method
    async def undone(call: sockrpc.Call) -> None:
        call.on_abort(there.spin)
        await gate.wait()

    async with serving(app, blocked_warning=None) as here, await here.raw() as raw:
        await raw.send(*(request(n, "undone") for n in range(MANY)))
        await until(lambda: here.server.statistics().calls_running == MANY)
        if end == "reset":
            await raw.send(*(reset(n) for n in range(MANY)))
        else:
            raw.reset_line()
        assert await there.all_of(MANY) <= AT_ONCE
        await until(lambda: here.server.statistics().calls_running == 0)
        if end == "lost":
            await until(lambda: not working(here.server))


async def test_many_resets_in_one_read_take_several_turns() -> None:
    there = Iterations()
    app, _ = app_of(there)

    class Task(asyncio.Task[Any]):
        def cancel(self, msg: Any = None) -> bool:
            there.spin()
            return super().cancel(msg)

    async with serving(app, blocked_warning=None) as here, await here.raw() as raw:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, coroutine, **options: Task(coroutine, loop=loop, **options))
        await raw.send(*(request(n, "wait") for n in range(MANY)))
        await until(lambda: here.server.statistics().calls_running == MANY)
        loop.set_task_factory(None)
        await raw.send(*(reset(n) for n in range(MANY)))
        assert await there.all_of(MANY) <= AT_ONCE


@pytest.mark.parametrize("why", ["failed", "unknown"])
async def test_the_lines_of_many_calls_in_one_read_take_several_turns_and_keep_their_order(
    why: str, slow: Slow, caplog: pytest.LogCaptureFixture
) -> None:
    there = Iterations()
    app, gate = app_of(there)

    @app.method
    async def failed(call: sockrpc.Call) -> None:
        await gate.wait()
        if call.id == MANY:
            # Its line comes in the next iteration, before those of the others that still wait for a turn.
            await asyncio.sleep(0)
        raise ValueError("as intended")

    sent = [request(n, "failed" if why == "failed" else f"unknown {n}") for n in range(MANY)]
    async with serving(app, blocked_warning=None) as here, await here.raw() as raw:
        slow.iterations = there
        if why == "failed":
            await raw.send(sent[0], request(MANY, "failed"), *sent[1:])
            await until(lambda: here.server.statistics().calls_running == MANY + 1)
            gate.set()
        else:
            await raw.send(*sent, request(MANY, "another"))
        assert await there.all_of(MANY + 1) <= AT_ONCE
        slow.iterations = None
    lines = [record.getMessage().split(" ")[:2] for record in caplog.records]
    assert lines == [["call", str(n)] for n in range(MANY + 1)]


async def test_a_lost_connection_is_over_when_its_lines_are_written_and_not_before(
    slow: Slow, caplog: pytest.LogCaptureFixture
) -> None:
    there = Iterations()
    app, _ = app_of(there)

    @app.method
    async def failing(call: sockrpc.Call) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("as intended")

    async with serving(app, max_connections=1, blocked_warning=None) as here:
        raw = await here.raw()
        await raw.send(*(request(n, "failing") for n in range(MANY)))
        await until(lambda: here.server.statistics().calls_running == MANY)
        slow.iterations = there
        raw.reset_line()
        await until(lambda: not working(here.server))
        assert len(caplog.records) == MANY
        assert await there.all_of(MANY) <= AT_ONCE
        slow.iterations = None
        # Its slot is free.
        await (await here.raw()).close()


async def test_what_is_done_for_very_many_takes_several_turns() -> None:
    there = Iterations()
    await in_turns(range(MANY), there.spin)
    assert await there.all_of(MANY) <= AT_ONCE
    there = Iterations()
    await in_turns(range(1000), there.note)
    assert await there.all_of(1000) <= ENDED_AT_ONCE
