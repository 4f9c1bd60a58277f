"""`connect(uri).stream(method)`: every item once and in order, whatever becomes of the connections."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import sockrpc
import sockrpc.dial.reconnecting
from sockrpc import Code, Outcome, RPCError, Tracked
from tests.faults.proxy import Proxy
from tests.kit.command import Command
from tests.kit.feed_server import item_at
from tests.kit.inside import held_bytes
from tests.kit.processes import reserved_port
from tests.kit.support import PATIENCE, V1, serving, started, until

PROGRAM = Path(__file__).parents[1] / "kit" / "feed_server.py"


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockrpc.dial.reconnecting, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(sockrpc.dial.reconnecting, "LONGEST_DELAY", 0.01)


class Feed:
    """An app whose method `feed` counts from where it is resumed; what it has done is on record."""

    def __init__(self) -> None:
        self.began: list[tuple[bytes | None, bytes, dict[str, bytes]]] = []
        self.ended = 0
        self.go = asyncio.Event()
        self.go.set()
        # Raised instead of the item of that number, once.
        self.failures: dict[int, Exception] = {}
        self.app = sockrpc.App()
        self.app.method("feed")(self.feed)

    async def feed(self, call: sockrpc.Call) -> AsyncIterator[Tracked | bytes]:
        self.began.append((call.resume_from, call.payload, dict(call.metadata)))
        try:
            number = 0 if call.resume_from is None else int(call.resume_from) + 1
            while number < 10:
                if number in self.failures:
                    raise self.failures.pop(number)
                yield Tracked(b"item %d" % number, b"%d" % number)
                number += 1
            await self.go.wait()
        finally:
            self.ended += 1

    def numbers(self) -> list[bytes | None]:
        """Where each call of it went on from."""
        return [cursor for cursor, _, _ in self.began]


async def each(stream: AsyncIterator[bytes], act: Callable[[bytes], object]) -> None:
    async for item in stream:
        act(item)


ALL = [b"item %d" % number for number in range(10)]


async def test_it_is_one_stream_while_the_connection_lasts() -> None:
    feed = Feed()
    async with serving(feed.app) as here, asyncio.timeout(PATIENCE):
        stream = here.connect(protocols=V1).stream("feed", "what", metadata={"traceparent": "t"})
        assert stream.cursor is None
        assert [item async for item in stream] == ALL
        assert stream.cursor == b"9"
        # It is over, and its connection is closed.
        assert [item async for item in stream] == []
        await until(lambda: not here.server.connections)
    assert feed.began == [(None, b"what", {"traceparent": b"t"})]


@pytest.mark.parametrize("taken", [0, 1, 5, 10])
async def test_it_goes_on_behind_the_item_that_was_taken_last(taken: int) -> None:
    feed = Feed()
    feed.go.clear()
    async with (
        serving(feed.app) as here,
        Proxy(here.port) as proxy,
        asyncio.timeout(PATIENCE),
        sockrpc.connect(proxy.uri, protocols=V1).stream("feed") as stream,
    ):
        items = [await anext(stream) for _ in range(taken)]
        step = await started(anext(stream))
        if taken == 10:
            await until(lambda: feed.began)
            proxy.cut("rst")
            await until(lambda: len(feed.began) == 2)
        # A step that is cancelled loses nothing.
        step.cancel()
        await asyncio.wait([step])
        if not step.cancelled():
            items.append(step.result())
        proxy.cut("rst")
        feed.go.set()
        items += [item async for item in stream]
        assert items == ALL
    assert set(feed.numbers()) <= {None, *(b"%d" % number for number in range(10))}
    assert len(feed.began) == feed.ended


async def test_items_that_have_come_before_the_loss_are_not_asked_for_again() -> None:
    feed = Feed()
    feed.go.clear()
    async with serving(feed.app) as here, Proxy(here.port) as proxy, asyncio.timeout(PATIENCE):
        stream = sockrpc.connect(proxy.uri, protocols=V1).stream("feed")
        assert await anext(stream) == b"item 0"
        # Each costs its payload, its cursor and 64 bytes.
        await until(lambda: held_bytes(stream) == sum(len(each) + 1 + 64 for each in ALL[1:]))
        proxy.cut("rst")
        await until(lambda: feed.ended == 1)
        assert [await anext(stream) for _ in range(9)] == ALL[1:]
        feed.go.set()
        assert [item async for item in stream] == []
    assert feed.numbers() == [None, b"9"]


async def test_it_begins_at_a_cursor_of_another_process() -> None:
    feed = Feed()
    async with serving(feed.app) as here, asyncio.timeout(PATIENCE):
        stream = here.connect(protocols=V1).stream("feed", metadata={"resume-from": "6"})
        assert stream.cursor == b"6"
        assert [item async for item in stream] == ALL[7:]


async def test_items_without_a_cursor_may_come_again() -> None:
    app = sockrpc.App()

    @app.method
    async def feed(call: sockrpc.Call) -> AsyncIterator[Any]:
        if call.resume_from is None:
            yield Tracked("one", b"1")
            yield "and more"
            raise RPCError(Code.UNAVAILABLE)
        assert call.resume_from == b"1"
        yield "and more"

    async with serving(app) as here, asyncio.timeout(PATIENCE):
        stream = here.connect(protocols=V1).stream("feed")
        assert [item async for item in stream] == [b"one", b"and more", b"and more"]


# What ends it, and what does not


@pytest.mark.parametrize(
    "code", [Code.OUT_OF_RANGE, Code.INTERNAL, Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED, 200]
)
async def test_an_error_of_the_handler_is_raised_and_ends_it(code: Code | int) -> None:
    feed = Feed()
    feed.failures[3] = RPCError(code, "no such place")
    async with serving(feed.app) as here, asyncio.timeout(PATIENCE):
        items: list[bytes] = []
        stream = here.connect(protocols=V1).stream("feed")
        with pytest.raises(RPCError, match="no such place") as raised:
            await each(stream, items.append)
        assert (raised.value.code, raised.value.outcome) == (code, Outcome.PARTIAL)
        assert items == ALL[:3]
        assert [item async for item in stream] == []
        await until(lambda: not here.server.connections)


@pytest.mark.parametrize(
    "error",
    [RPCError(Code.UNAVAILABLE, "not now"), RPCError(Code.RESOURCE_EXHAUSTED, "later", retry_after=0.3)],
)
async def test_an_error_that_may_pass_is_a_pause(error: RPCError) -> None:
    feed = Feed()
    feed.failures[3] = error
    async with serving(feed.app) as here, asyncio.timeout(PATIENCE):
        began = asyncio.get_running_loop().time()
        assert [item async for item in here.connect(protocols=V1).stream("feed")] == ALL
        # uvloop's clock has whole milliseconds.
        assert asyncio.get_running_loop().time() - began >= (error.retry_after or 0.0) - 0.002
    assert feed.numbers() == [None, b"2"]


async def test_a_server_that_stops_is_left_at_once_and_the_next_one_asked() -> None:
    feed = Feed()
    feed.go.clear()
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(PATIENCE))
        old = await stack.enter_async_context(serving(feed.app, stop_grace=3600.0))
        stream = old.connect(protocols=V1).stream("feed")
        items = [await anext(stream) for _ in range(4)]
        # The grace of the old one would be an hour.
        old.server.close()
        await old.server.wait_closed()
        feed.go.set()
        async with sockrpc.serve(feed.app, "127.0.0.1", old.port):
            items += [item async for item in stream]
    assert items == ALL
    assert feed.numbers()[0] is None
    assert len(feed.began) == 2


async def test_a_peer_of_the_first_protocol_cannot_do_it() -> None:
    feed = Feed()
    async with serving(feed.app) as here, asyncio.timeout(PATIENCE):
        with pytest.raises(RPCError, match="no streams") as raised:
            await anext(here.connect(protocols=(sockrpc.SUBPROTOCOL,)).stream("feed"))
        assert raised.value.code is Code.UNIMPLEMENTED
        await until(lambda: not here.server.connections)


async def test_a_refusal_that_stays_is_raised() -> None:
    async with serving(Feed().app, path="/here") as here:
        stream = here.connect(protocols=V1).stream("feed")
        with pytest.raises(sockrpc.HandshakeError):
            await anext(stream)
        assert [item async for item in stream] == []


# Time


async def test_its_time_goes_on_over_all_connections() -> None:
    feed = Feed()
    feed.go.clear()
    async with serving(feed.app) as here, Proxy(here.port) as proxy, asyncio.timeout(PATIENCE):
        stream = sockrpc.connect(proxy.uri, protocols=V1).stream("feed", timeout=0.3)
        began = asyncio.get_running_loop().time()
        items = [await anext(stream) for _ in range(5)]
        proxy.cut("rst")
        with pytest.raises(sockrpc.DeadlineExceeded):
            await each(stream, items.append)
        assert 0.29 <= asyncio.get_running_loop().time() - began < PATIENCE / 2
        assert items == ALL
    assert len(feed.began) == feed.ended


@pytest.mark.parametrize("how", ["timeout", "block"])
async def test_its_time_ends_the_attempts_to_connect(how: str) -> None:
    with reserved_port() as port:
        connecting = sockrpc.connect(f"ws://127.0.0.1:{port}/", protocols=V1)
        with sockrpc.deadline(0.1 if how == "block" else None):
            stream = connecting.stream("feed", timeout=0.1 if how == "timeout" else None)
            with pytest.raises(sockrpc.DeadlineExceeded, match="no connection for the stream of 'feed'"):
                await anext(stream)
        assert [item async for item in stream] == []


# Leaving it


@pytest.mark.parametrize("how", ["break", "block", "aclose", "dropped"])
async def test_a_stream_that_is_left_is_reset_and_its_connection_closed(how: str) -> None:
    feed = Feed()
    feed.go.clear()
    async with serving(feed.app) as here, asyncio.timeout(PATIENCE):
        if how == "break":
            async for _ in here.connect(protocols=V1).stream("feed"):
                break
        elif how == "block":
            async with here.connect(protocols=V1).stream("feed") as stream:
                await anext(stream)
        else:
            stream = here.connect(protocols=V1).stream("feed")
            await anext(stream)
            if how == "aclose":
                step = await started(take_all(stream))
                await stream.aclose()
                # Whoever waits for an item sees the end.
                assert await step in {0, 9}
            else:
                del stream
        gc.collect()
        await until(lambda: feed.ended == 1 and not here.server.connections)


async def take_all(stream: AsyncIterator[bytes]) -> int:
    return len([item async for item in stream])


async def test_closing_it_ends_an_attempt_to_connect() -> None:
    with reserved_port() as port:
        stream = sockrpc.connect(f"ws://127.0.0.1:{port}/", protocols=V1).stream("feed", timeout=5.0)
        step = await started(anext(stream, None))
        with pytest.raises(sockrpc.UsageError, match="one consumer"):
            await anext(stream)
        step.cancel()
        await asyncio.wait([step])
        await stream.aclose()
        assert [item async for item in stream] == []


def test_faults_of_the_arguments_are_raised_at_once() -> None:
    connecting = sockrpc.connect("ws://127.0.0.1:1/")
    with pytest.raises(sockrpc.UsageError):
        connecting.stream("x" * 256)
    with pytest.raises(sockrpc.UsageError):
        connecting.stream("feed", timeout=-1.0)
    with pytest.raises(sockrpc.UsageError):
        connecting.stream("feed", metadata={"No": "x"})
    with pytest.raises(sockrpc.UsageError):
        connecting.stream("feed", window_bytes=0)


# Everything at once

COUNT = 6_000
KILLS = 50


async def test_over_fifty_killed_connections_and_two_restarts_each_item_comes_once_and_in_order() -> None:
    chance = random.Random(13)
    wanted = {item_at(number): number for number in range(COUNT)}
    kills = iter(sorted(chance.sample(range(1, COUNT - 300), KILLS)))
    restarts = [COUNT // 3, 2 * COUNT // 3]
    taken: list[int] = []
    killed = 0
    next_kill = next(kills)
    cursor: bytes | None = None
    with contextlib.ExitStack() as stack, reserved_port() as port:
        server = stack.enter_context(start(port))
        async with Proxy(port) as proxy, asyncio.timeout(6 * PATIENCE):
            connecting = sockrpc.connect(proxy.uri, protocols=V1, window_bytes=65_536)
            while len(taken) < COUNT:
                metadata = None if cursor is None else {"resume-from": cursor}
                async with connecting.stream("feed", str(COUNT), metadata=metadata) as feed:
                    while (item := await patiently(feed, chance)) is not None:
                        taken.append(wanted[item])
                        cursor = feed.cursor
                        if len(taken) >= next_kill and not proxy.link.ended.is_set():
                            killed += 1
                            next_kill = next(kills, COUNT + 1)
                            await kill(proxy, chance)
                        if restarts and len(taken) >= restarts[0]:
                            # One stops in order, and takes leave; the other is gone.
                            (server.process.terminate if restarts.pop(0) == 2000 else server.process.kill)()
                            await asyncio.to_thread(server.end)
                            server = stack.enter_context(await asyncio.to_thread(start, port))
                        if chance.random() < 0.002:
                            # The user has enough for now, and goes on with another stream.
                            break
                    else:
                        break
    assert taken == list(range(COUNT))
    assert (killed, restarts) == (KILLS, [])


def start(port: int) -> Command:
    server = Command(str(port), program=(str(PROGRAM),))
    try:
        assert server.line() == "ready"
    except BaseException:
        server.__exit__()
        raise
    return server


async def patiently(feed: AsyncIterator[bytes], chance: random.Random) -> bytes | None:
    """The next item, for a user who dawdles now and then, and gives up some steps."""
    while True:
        if chance.random() < 0.01:
            await asyncio.sleep(chance.random() * 0.005)
        if chance.random() < 0.05:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(chance.random() * 0.0005):
                    return await anext(feed, None)
            continue
        return await anext(feed, None)


async def kill(proxy: Proxy, chance: random.Random) -> None:
    """Kill the connection with a reset, at once or after some bytes more."""
    if chance.random() < 0.5:
        proxy.link.cut("rst")
        return
    link = proxy.link
    proxy.down.cut_how = "rst"
    proxy.down.cut_after = link.passed["client"] + chance.randrange(1, 3000)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.02):
            await link.ended.wait()
    link.cut("rst")
    proxy.down.cut_after = None
