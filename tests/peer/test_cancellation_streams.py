"""Cancellation of streams: loops that are left, generators that are closed, credit that is awaited."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import sockrpc
from sockrpc import Code, Outcome, RPCError
from tests.kit.pair import MemoryServer, take_frames
from tests.kit.support import V1, serving, until
from tests.kit.v1_peer import TAKES, V1Peer, credit, opened, reset

WINDOW = 65_536
FULL = bytes(WINDOW)  # one item, behind which the balance is below 0
RESET = 3

variable: contextvars.ContextVar[int | None] = contextvars.ContextVar("variable", default=None)


def streaming(**options: Any) -> sockrpc.App:
    """An app whose "feed" yields what has a whole window, for ever; the next one waits for credit."""
    app = sockrpc.App()

    @app.method("feed", **options)
    async def feed(call: sockrpc.Call) -> AsyncIterator[bytes]:
        while True:
            yield FULL

    return app


# Row 23


async def leave_by_break(client: sockrpc.Client) -> None:
    async for _ in client.stream("feed"):
        break


async def leave_by_return(client: sockrpc.Client) -> Any:
    async for data in client.stream("feed"):
        return data
    return None


async def leave_by_exception(client: sockrpc.Client) -> None:
    try:
        async for _ in client.stream("feed"):
            raise ValueError
    except ValueError:
        pass


async def leave_by_block(client: sockrpc.Client) -> None:
    async with client.stream("feed") as stream:
        await anext(stream)


async def leave_by_closing(client: sockrpc.Client) -> None:
    stream = client.stream("feed")
    await anext(stream)
    await stream.aclose()


LEAVING = [leave_by_break, leave_by_return, leave_by_exception, leave_by_block, leave_by_closing]


@pytest.mark.row(23)
@pytest.mark.parametrize("leave", LEAVING)
async def test_leaving_a_loop_resets_at_once(leave: Callable[[sockrpc.Client], Any]) -> None:
    """Not at the next item: none comes here."""
    async with MemoryServer(streaming()) as here:
        client, pair = here.connect(protocol=V1[0], limits={"window_bytes": WINDOW})
        written = bytearray()
        pair.client.tap = written.extend
        task = asyncio.ensure_future(leave(client))
        await here.settle()
        assert task.done()
        await task
        resets = [data for _, data in take_frames(written) if data[0] == RESET]
        assert len(resets) == 1
        assert here.server.statistics().calls_reset == 1
        assert here.server.statistics().calls_running == 0


@pytest.mark.row(23)
async def test_the_reset_of_a_loop_that_is_left_is_written_before_anything_else_runs() -> None:
    async with MemoryServer(streaming()) as here:
        client, pair = here.connect(protocol=V1[0])
        written: list[bytes] = []
        pair.client.tap = written.append
        stream = client.stream("feed")
        taking = asyncio.ensure_future(anext(stream))
        await here.settle()
        await taking
        written.clear()
        async with stream:
            pass
        assert [data[0] for _, data in take_frames(bytearray(b"".join(written)))] == [RESET]


# Row 24


@pytest.mark.row(24)
@pytest.mark.parametrize("where", ["at yield", "at an await"])
async def test_a_generator_is_closed_before_its_caller_hears_of_the_end(where: str) -> None:
    """Its cleanup runs in the task and the context of the call."""
    app, seen = sockrpc.App(), list[Any]()

    @app.method("feed")
    async def feed(call: sockrpc.Call) -> AsyncIterator[bytes]:
        token = variable.set(1)
        task = asyncio.current_task()
        try:
            while True:
                yield FULL
                if where == "at an await":
                    await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0)
            assert asyncio.current_task() is task
            variable.reset(token)
            seen.append(call.abort_reason)

    async with serving(app) as here, here.connect(protocols=V1, window_bytes=WINDOW) as client:
        async with client.stream("feed") as stream:
            await anext(stream)
            assert seen == []
            outcome = await stream.cancel()
            assert outcome is Outcome.PARTIAL
            assert seen == ["reset"]
        assert here.server.statistics().calls_running == 0


class Generators:
    """What a generator may do when a CancelledError is raised at its `yield`; each notes what it has seen."""

    def __init__(self) -> None:
        self.log: list[str] = []

    async def plain(self, call: sockrpc.Call) -> AsyncIterator[bytes]:
        token = variable.set(1)
        try:
            while True:
                try:
                    yield FULL
                except asyncio.CancelledError:
                    self.log.append("CancelledError at yield")
                    raise
        finally:
            await asyncio.sleep(0)
            variable.reset(token)
            self.log.append("cleanup awaited, context intact")

    async def group(self, call: sockrpc.Call) -> AsyncIterator[bytes]:
        async def child() -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self.log.append("child ended")

        async with asyncio.TaskGroup() as group:
            group.create_task(child())
            while True:
                await asyncio.sleep(0)
                yield FULL

    async def own_timeout(self, call: sockrpc.Call) -> AsyncIterator[bytes]:
        try:
            async with asyncio.timeout(0.01):
                while True:
                    yield FULL
        except TimeoutError:
            self.log.append("its own TimeoutError")
            raise RPCError(Code.ABORTED, "own time-out") from None

    async def swallows(self, call: sockrpc.Call) -> AsyncIterator[bytes]:
        try:
            while True:
                yield FULL
        except asyncio.CancelledError:
            self.log.append("swallowed")

    async def yields_again(self, call: sockrpc.Call) -> AsyncIterator[bytes]:
        while True:
            try:
                yield FULL
            except asyncio.CancelledError:
                self.log.append("CancelledError")
            except GeneratorExit:
                self.log.append("GeneratorExit")
                raise

    async def yields_again_after_an_await(self, call: sockrpc.Call) -> AsyncIterator[bytes]:
        yield FULL
        while True:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                self.log.append("CancelledError")
            try:
                while True:
                    yield b"more"
            except GeneratorExit:
                self.log.append("GeneratorExit")
                raise

    async def stubborn(self, call: sockrpc.Call) -> AsyncIterator[bytes]:
        for _ in range(2):
            try:
                while True:
                    yield FULL
            except BaseException as error:
                self.log.append(type(error).__name__)
        yield FULL


ABORTED = [
    ("plain", ["CancelledError at yield", "cleanup awaited, context intact"]),
    ("group", ["child ended"]),
    ("swallows", ["swallowed"]),
    ("yields_again", ["CancelledError", "GeneratorExit"]),
    ("yields_again_after_an_await", ["CancelledError", "GeneratorExit"]),
    ("stubborn", ["CancelledError", "GeneratorExit"]),
]


@pytest.mark.row(8, 24)
@pytest.mark.usefixtures("caplog")
@pytest.mark.parametrize(("name", "expected"), ABORTED)
async def test_an_abort_is_raised_in_a_generator_at_yield(name: str, expected: list[str]) -> None:
    generators = Generators()
    app = sockrpc.App()
    app.method("feed")(getattr(generators, name))
    async with serving(app) as here, here.connect(protocols=V1, window_bytes=WINDOW) as client:
        async with client.stream("feed") as stream:
            await anext(stream)
            assert await stream.cancel() is Outcome.PARTIAL
            assert generators.log == expected
        statistics = here.server.statistics()
        assert (statistics.calls_running, statistics.calls_reset, statistics.calls_failed) == (0, 1, 0)


@pytest.mark.row(17, 24)
async def test_a_time_out_of_a_generator_is_raised_at_yield() -> None:
    """It waits for credit, and it is its own `asyncio.timeout` that ends this, not an abort."""
    generators = Generators()
    app = sockrpc.App()
    app.method("feed")(generators.own_timeout)
    async with serving(app) as here, here.connect(protocols=V1, window_bytes=WINDOW) as client:
        stream = client.stream("feed")
        assert await anext(stream) == FULL
        with pytest.raises(RPCError, match="own time-out") as raised:
            await stream.result()
        assert (raised.value.code, raised.value.outcome) == (Code.ABORTED, Outcome.PARTIAL)
        assert generators.log == ["its own TimeoutError"]


@pytest.mark.row(24)
async def test_a_generator_that_ends_by_itself_was_not_aborted() -> None:
    app = sockrpc.App()
    seen: list[str | None] = []

    @app.method("feed")
    async def feed(call: sockrpc.Call) -> AsyncIterator[bytes]:
        try:
            yield b"one"
        finally:
            seen.append(call.abort_reason)

    async with serving(app) as here, here.connect(protocols=V1) as client:
        assert [data async for data in client.stream("feed")] == [b"one"]
        assert seen == [None]
        assert here.server.statistics().calls_answered == 1


@pytest.mark.row(18, 24)
async def test_a_generator_that_runs_to_completion_is_not_aborted_and_takes_turns() -> None:
    """Nobody takes its items any more, so it never waits; others are answered meanwhile."""
    app = sockrpc.App()
    app.method("echo")(lambda call: call.payload)
    may_end = threading.Event()

    @app.method("feed", run_to_completion=True)
    async def feed(call: sockrpc.Call) -> AsyncIterator[bytes]:
        while not may_end.is_set():
            yield FULL

    async with serving(app) as here, here.connect(protocols=V1, window_bytes=WINDOW) as client:
        stream = client.stream("feed")
        await anext(stream)
        outcome = stream.cancel()
        for _ in range(3):
            assert await client.call("echo", "x") == b"x"
        assert not outcome.done()
        may_end.set()
        assert await outcome is Outcome.COMPLETED


# Row 25


async def by_generator(call: sockrpc.Call) -> AsyncIterator[bytes]:
    while True:
        yield FULL


async def by_send(call: sockrpc.Call) -> None:
    while await call.send(FULL):
        pass


def in_a_thread(call: sockrpc.Call) -> Iterator[bytes]:
    while True:
        yield FULL


@pytest.mark.row(25)
@pytest.mark.parametrize("ending", ["reset", "lost", "timeout", "stop"])
@pytest.mark.parametrize("produce", [by_generator, by_send, in_a_thread])
async def test_waiting_for_credit_is_left_by_an_abort(produce: Any, ending: str) -> None:
    app = sockrpc.App()
    app.method("feed", thread=produce is in_a_thread)(produce)
    async with serving(app, stop_grace=0.05) as here:
        client = await here.connect(protocols=V1, window_bytes=WINDOW)
        async with client.stream("feed", timeout=0.2 if ending == "timeout" else None) as stream:
            await anext(stream)
            # Half a window is granted for it; the next one takes more than that.
            await until(lambda: here.server.statistics().bytes_sent > 2 * WINDOW)
            if ending == "reset":
                assert await stream.cancel() is Outcome.PARTIAL
            elif ending == "lost":
                await client.close()
            else:
                if ending == "stop":
                    here.server.close()
                with pytest.raises(RPCError) as raised:
                    await asyncio.wait_for(stream.result(), 5)
                expected = Code.DEADLINE_EXCEEDED if ending == "timeout" else Code.UNAVAILABLE
                assert raised.value.code is expected
            await until(lambda: here.server.statistics().calls_running == 0)
        await client.close()


@pytest.mark.row(25)
async def test_resets_and_ends_need_no_credit() -> None:
    async with serving(streaming()) as here, await V1Peer.meet(here.port) as raw:
        await raw.say(opened(1, "feed", flags=TAKES))
        assert len(await raw.message()) == 5 + WINDOW
        await raw.synchronize()
        await raw.say(reset(1))
        assert await raw.error() == (1, Code.CANCELLED, Outcome.PARTIAL.value)


# Row 26


@pytest.mark.row(26)
async def test_credit_dies_with_its_call() -> None:
    """It is not counted for the next call of the same id, and nothing of it is left on the connection."""
    async with serving(streaming()) as here, await V1Peer.meet(here.port) as raw:
        for _ in range(3):
            await raw.say(opened(1, "feed", flags=TAKES))
            assert len(await raw.message()) == 5 + WINDOW
            await raw.say(reset(1), credit(1, 500_000))
            assert await raw.error() == (1, Code.CANCELLED, Outcome.PARTIAL.value)
            # It crossed the end.
            await raw.say(credit(1, 500_000))
        await raw.say(opened(1, "feed", flags=TAKES))
        assert len(await raw.message()) == 5 + WINDOW
        # The next frame is no second item.
        await raw.synchronize()
        await raw.say(credit(1, WINDOW))
        assert len(await raw.message()) == 5 + WINDOW
        await raw.synchronize()


@pytest.mark.row(26)
async def test_a_caller_that_has_given_up_grants_nothing() -> None:
    async with MemoryServer(streaming()) as here:
        client, pair = here.connect(protocol=V1[0], limits={"window_bytes": WINDOW})
        stream = client.stream("feed")
        taking = asyncio.ensure_future(anext(stream))
        await here.settle()
        await taking
        written: list[bytes] = []
        pair.client.tap = written.append
        outcome = stream.cancel()
        await here.settle()
        assert outcome.result() is Outcome.PARTIAL
        assert [data[0] for _, data in take_frames(bytearray(b"".join(written)))] == [RESET]
        with pytest.raises(RPCError):
            [data async for data in stream]
