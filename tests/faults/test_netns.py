"""Two hosts and the line between them: loss, a dead line, little rate, delay."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

import sockrpc
import sockrpc.dial.reconnecting
from tests.faults.netns import DELAYED_SERVER, Network, needs_namespaces
from tests.kit.inside import abort_connection
from tests.kit.support import started

pytestmark = [pytest.mark.faults, needs_namespaces(), pytest.mark.timeout(60)]

# What keepalive is given here, and how much later than both together its verdict may come on a busy machine.
KEEPALIVE: dict[str, Any] = {"ping_interval": 0.4, "ping_timeout": 0.4}
LATE = 1.0
ENOUGH = 20.0


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as network, network.entered():
        yield network


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockrpc.dial.reconnecting, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(sockrpc.dial.reconnecting, "LONGEST_DELAY", 0.1)


class Stopwatch:
    """Measures the seconds of its block."""

    def __enter__(self) -> Self:
        self.began = time.monotonic()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.seconds = time.monotonic() - self.began


@contextlib.asynccontextmanager
async def connected(uri: str, **options: Any) -> AsyncIterator[sockrpc.Client]:
    """A client that is not closed politely at the end: its line may be dead."""
    client = await sockrpc.connect(uri, **options)
    try:
        yield client
    finally:
        abort_connection(client, "the test is over")
        await client.wait_closed()


async def test_with_a_third_of_all_packets_lost_every_call_is_answered(
    network: Network, tmp_path: Path
) -> None:
    chance = random.Random(1)
    payloads = [chance.randbytes(chance.choice((0, 10, 1000, 5000))) for _ in range(30)]

    async def use(client: sockrpc.Client) -> None:
        calls = [asyncio.ensure_future(client.call("echo", payload)) for payload in payloads]
        given_up = [await started(client.call("later", "60")) for _ in range(10)]
        for call in given_up:
            call.cancel()
        assert await asyncio.gather(*calls) == payloads
        pongs = client.on("pong")
        await client.notify("ping", b"still here")
        assert await anext(pongs) == b"still here"

    async with network.serving(tmp_path) as server, asyncio.timeout(2 * ENOUGH):
        async with contextlib.AsyncExitStack() as stack:
            # Before the loss: the system's time before it sends an opening again doubles from a second.
            clients = [await stack.enter_async_context(sockrpc.connect(server.uri())) for _ in range(3)]
            network.lose(30)
            await asyncio.gather(*map(use, clients))
            network.restore()
        counts = await server.settled()
    # Not one was started or answered twice, however often its packets were sent.
    assert counts["calls_answered"] == 3 * len(payloads)
    # The last one each was given up before it was written.
    assert counts["calls_reset"] == 3 * 9
    assert counts["calls_started"] == 3 * (len(payloads) + 9)


@pytest.mark.parametrize("role", ["server", "client", "both"])
async def test_a_dead_line_is_found_by_keepalive(network: Network, tmp_path: Path, role: str) -> None:
    off: dict[str, Any] = {"ping_interval": None}
    async with (
        network.serving(tmp_path, **(off if role == "client" else KEEPALIVE)) as server,
        connected(server.uri(), **(off if role == "server" else KEEPALIVE)) as client,
    ):
        call = await started(client.call("later", "60"))
        await server.until(lambda report: report["calls_running"] == 1)
        network.die()
        with Stopwatch() as watch:
            if role != "server":
                with pytest.raises(sockrpc.ConnectionLost, match="keepalive"):
                    await call
            if role != "client":
                await server.until(lambda report: report["calls_lost"] == 1)
        assert watch.seconds < KEEPALIVE["ping_interval"] + KEEPALIVE["ping_timeout"] + LATE
        if role != "client":
            assert (await server.settled())["reasons"] == ["lost"]
        if role == "client":
            # Nothing has reached it; once the line is back, what was sent before may.
            assert (await server.report())["calls_in_flight"] == 1
        network.restore()
        # The side that slept through it: its first word is answered with a reset.
        if role == "server":
            with pytest.raises(sockrpc.ConnectionLost):
                await client.call("echo", timeout=ENOUGH)
            await asyncio.wait([call])
            assert isinstance(call.exception(), sockrpc.ConnectionLost)
        await client.wait_closed()


@pytest.mark.parametrize("busy", [False, True])
async def test_a_client_whose_host_vanishes_is_found_by_keepalive(
    network: Network, tmp_path: Path, busy: bool
) -> None:
    async with (
        network.serving(tmp_path, **KEEPALIVE, stall_timeout=0.8) as server,
        connected(server.uri(), ping_interval=None) as client,
    ):
        calls = [await started(client.call("later", "60")) for _ in range(3)]
        if busy:
            # It is blocked output, then, that makes no progress.
            network.server.limit_rate("2mbit")
            calls.append(await started(client.call("large", str(8 * 2**20))))
        await server.until(lambda report: report["calls_started"] == len(calls))
        network.client.ip("link", "set", network.client.device, "down")
        limit = KEEPALIVE["ping_interval"] + KEEPALIVE["ping_timeout"] + LATE
        report = await server.until(lambda report: report["calls_lost"] == 3, limit)
        assert report["connections"] == 0
        abort_connection(client, "its host is gone")
        for call in calls:
            with pytest.raises(sockrpc.ConnectionLost):
                await call
        assert (await server.settled())["reasons"] == ["lost"] * 3


async def test_an_unacknowledged_close_ends_by_close_timeout(network: Network, tmp_path: Path) -> None:
    async with (
        network.serving(tmp_path, **KEEPALIVE) as server,
        connected(server.uri(), close_timeout=0.5) as client,
    ):
        call = await started(client.call("later", "60"))
        await server.until(lambda report: report["calls_running"] == 1)
        network.die()
        with Stopwatch() as watch:
            await client.close()
        assert 0.4 < watch.seconds < 0.5 + LATE
        with pytest.raises(sockrpc.ConnectionClosed):
            await call
        # The server never hears of it.
        assert (await server.settled())["reasons"] == ["lost"]


async def test_an_opening_on_a_dead_line_ends_in_time(network: Network, tmp_path: Path) -> None:
    async with network.serving(tmp_path, handshake_timeout=0.5) as server:
        network.die()
        with Stopwatch() as watch, pytest.raises(TimeoutError):
            await sockrpc.connect(server.uri(), open_timeout=0.5)
        assert watch.seconds < 0.5 + LATE
        network.restore()
        # Dead once TCP is there: the server gives up the request that it never sees.
        opening = await started(asyncio.open_connection(network.server.address, server.port))
        _, writer = await opening
        await server.until(lambda report: report["attached"] == 1)
        network.die()
        await server.until(lambda report: report["attached"] == 0, 0.5 + LATE)
        writer.transport.abort()
        await server.settled()


async def test_a_killed_server_ends_the_calls(network: Network, tmp_path: Path) -> None:
    async with network.serving(tmp_path) as first, connected(first.uri()) as client:
        listener = client.on("pong")
        calls = [await started(client.call("later", "60")) for _ in range(20)]
        await first.until(lambda report: report["calls_running"] == 20)
        first.kill()
        with Stopwatch() as watch:
            for call in calls:
                with pytest.raises(sockrpc.ConnectionLost):
                    await call
            with pytest.raises(sockrpc.ConnectionLost):
                await anext(listener)
        assert watch.seconds < LATE
        # Its listener may outlive its connections by a moment.
        await asyncio.to_thread(first.process.wait)
        with pytest.raises(ConnectionRefusedError):
            await sockrpc.connect(first.uri())


async def test_reconnecting_over_a_line_that_dies_again_and_again(network: Network, tmp_path: Path) -> None:
    async with network.serving(tmp_path, **KEEPALIVE) as server, asyncio.timeout(2 * ENOUGH):
        rounds = 0
        async for client in sockrpc.connect(server.uri(), open_timeout=0.5, **KEEPALIVE):
            call = await started(client.call("later", f"60 {rounds}"))
            await server.until(lambda report, rounds=rounds: report["calls_started"] == rounds + 1)
            rounds += 1
            if rounds == 3:
                break
            network.die()
            with pytest.raises(sockrpc.ConnectionLost):
                await call
            # Some attempts to connect are made on the dead line.
            asyncio.get_running_loop().call_later(0.6, network.restore)
        await client.close()
        with pytest.raises(sockrpc.ConnectionClosed):
            await call
        # The lost ones were not called again.
        assert (await server.settled())["calls_started"] == 3


# Little rate


@pytest.mark.parametrize("way", ["to the client", "to the server"])
async def test_keepalive_spares_a_slow_line_that_is_busy(network: Network, tmp_path: Path, way: str) -> None:
    for host in (network.server, network.client):
        host.limit_rate("2mbit")
    limits: dict[str, Any] = {**KEEPALIVE, "stall_timeout": 2.0}
    size = 2**20
    async with network.serving(tmp_path, **limits) as server, asyncio.timeout(ENOUGH):
        async with sockrpc.connect(server.uri(), **limits) as client:
            with Stopwatch() as watch:
                if way == "to the client":
                    bulk = await started(client.call("large", str(size)))
                else:
                    bulk = await started(client.call("echo", bytes(size // 2)))
                answered = 0
                # Behind the large one, as there is one line; but each is answered.
                while not bulk.done():
                    assert await client.call("echo", b"small") == b"small"
                    answered += 1
            assert len(await bulk) == (size if way == "to the client" else size // 2)
        # Several times as long as a silent line lives.
        assert watch.seconds > 3 * KEEPALIVE["ping_interval"] + 3 * KEEPALIVE["ping_timeout"]
        assert answered > 0
        assert (await server.settled())["calls_answered"] == answered + 1


async def test_a_slow_reader_s_answers_do_not_pile_up_in_the_server(network: Network, tmp_path: Path) -> None:
    network.server.limit_rate("4mbit")
    size, high = 100_000, 200_000
    limits = {"output_high_bytes": high, "output_low_bytes": high // 2}
    async with network.serving(tmp_path, **limits) as server, asyncio.timeout(ENOUGH):
        async with sockrpc.connect(server.uri()) as client:
            calls = [await started(client.call("large", str(size))) for _ in range(20)]
            unsent = []
            while not all(call.done() for call in calls):
                report = await server.report()
                unsent.append(report["unsent"])
                assert report["unsent"] <= high + size + 1000, report
            assert [len(await call) for call in calls] == [size] * len(calls)
        # It was a slow one.
        assert max(unsent) > high
        await server.settled()


# Delay


@pytest.mark.parametrize("jitter", [0.0, 0.03])
async def test_cancels_that_cross_answers_are_harmless(
    network: Network, tmp_path: Path, jitter: float
) -> None:
    delay = 0.05
    async with network.serving(tmp_path) as server, asyncio.timeout(ENOUGH):
        with network.delayed(delay, jitter):
            async with sockrpc.connect(server.uri(DELAYED_SERVER)) as client:
                with Stopwatch() as watch:
                    assert await client.call("echo", b"x") == b"x"
                assert watch.seconds >= 2 * delay
                # At every moment of a life: the request is under way, at work, its answer under way.
                moments = [step * 0.004 for step in range(60)]
                calls = [asyncio.ensure_future(client.call("later", f"0.05 {at}")) for at in moments]
                loop = asyncio.get_running_loop()
                for at, call in zip(moments, calls, strict=True):
                    loop.call_later(at, call.cancel)
                await asyncio.wait(calls)
                answered = [at for at, call in zip(moments, calls, strict=True) if not call.cancelled()]
                for at in answered:
                    assert calls[moments.index(at)].result() == f"0.05 {at}".encode()
                assert client.status().pending == []
                # None of those that crossed is taken for the answer of another.
                for n in range(5):
                    assert await client.call("echo", str(n)) == str(n).encode()
        counts = await server.settled()
    # The first ones may have been cancelled before their requests were written.
    arrived = counts["calls_started"] - 6
    assert counts["calls_answered"] + counts["calls_reset"] == counts["calls_started"]
    assert arrived >= len(calls) - 5
    # Both orders have happened: the reset came before the answer had left, and after.
    assert counts["calls_reset"] > 0
    assert counts["calls_answered"] > 6 + len(answered)
    assert counts["reasons"] == ["reset"] * len(counts["reasons"])


async def test_a_long_line_carries_many_calls_at_once(network: Network, tmp_path: Path) -> None:
    async with network.serving(tmp_path) as server, asyncio.timeout(ENOUGH):
        with network.delayed(0.05, 0.02):
            async with sockrpc.connect(server.uri(DELAYED_SERVER)) as client:
                with Stopwatch() as watch:
                    calls = [client.call("echo", str(n)) for n in range(500)]
                    assert await asyncio.gather(*calls) == [str(n).encode() for n in range(500)]
        assert (await server.settled())["calls_answered"] == 500
    # Not one after the other.
    assert watch.seconds < 500 * 0.1 / 10
