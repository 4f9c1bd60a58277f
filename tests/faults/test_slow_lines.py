"""Lines that are slow, silent or stalled, and what still has to happen on them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any, Self

import pytest

import sockrpc
import sockrpc.dial.reconnecting
from tests.faults.lines import Line, faulty
from tests.faults.proxy import How
from tests.kit.inside import has_ended, reason_ended, unsent_bytes
from tests.kit.narrow import narrow_socket, serving_narrowly
from tests.kit.raw_server import RawServer
from tests.kit.support import PATIENCE, started, until
from tests.kit.work import Work

pytestmark = pytest.mark.outside

KEEPALIVE: dict[str, Any] = {"ping_interval": 0.2, "ping_timeout": 0.2}
CUTS: list[How] = ["fin", "rst"]
OFF: dict[str, Any] = {"ping_interval": None}
# How much later than it says a verdict may come on a busy machine.
LATE = 1.0
# Far more than the narrow buffers of the system hold, less than what blocks output.
BACKLOG_BYTES = 600_000


class NarrowServer(RawServer):
    """The same, but it holds next to nothing of what it was not asked to receive."""

    async def __aenter__(self) -> Self:
        listening = narrow_socket()
        listening.bind(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        self.server = await asyncio.start_server(self.connected, sock=listening, limit=4096)
        return self


async def backlog(role: str, there: Any, limits: dict[str, Any]) -> tuple[Any, Any]:
    """Have so much unsent at a role's end; returns that end and the raw one that shall read it."""
    if role == "server":
        raw = await there.narrow_raw()
        socket = there.only_socket()
        for _ in range(20):
            assert socket.notify_nowait("n", bytes(BACKLOG_BYTES // 20))
        return socket, raw
    client, peer = await there.client(**limits)
    await client.notify("n", bytes(BACKLOG_BYTES))
    return client, peer


@pytest.mark.faults
@pytest.mark.parametrize("role", ["server", "client"])
@pytest.mark.parametrize("reads", [True, False], ids=["reads slowly", "reads nothing"])
async def test_a_ping_s_time_begins_when_what_was_written_before_it_has_left(role: str, reads: bool) -> None:
    there: Any = serving_narrowly(Work().app(), **KEEPALIVE) if role == "server" else NarrowServer()
    loop = asyncio.get_running_loop()
    async with there as here, asyncio.timeout(PATIENCE):
        end, raw = await backlog(role, here, KEEPALIVE)
        began = loop.time()
        limit = KEEPALIVE["ping_interval"] + KEEPALIVE["ping_timeout"] + LATE
        # Nothing is said by the other side, ever.
        if reads:
            received = 0
            while received < BACKLOG_BYTES:
                received += len(await raw.reader.read(BACKLOG_BYTES // 40))
                assert not has_ended(end)
                # What is tried is time.
                await asyncio.sleep(0.025)
            assert loop.time() - began > 2 * (KEEPALIVE["ping_interval"] + KEEPALIVE["ping_timeout"])
            reading = asyncio.ensure_future(raw.reader.read(1_000_000))
            began = loop.time()
        await until(lambda: has_ended(end))
        assert reason_ended(end).startswith("keepalive")
        assert loop.time() - began < limit
        if reads:
            await reading
        await raw.close() if role == "server" else await raw.finish()


PIECES: dict[str, Callable[[], int] | None] = {
    "whole": None,
    "single bytes": lambda: 1,
    "random": lambda: random.choice((1, 2, 3, 7, 50, 1000)),
}


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize("jitter", [None, 0.0, 0.01], ids=["at once", "delayed", "with jitter"])
async def test_calls_over_a_line_that_splits_and_delays(pieces: str, jitter: float | None) -> None:
    there = Work()
    payloads = [b"", b"x" * 125, b"y" * 126, b"z" * 300] + (
        [b"w" * 70_000] if pieces != "single bytes" else []
    )
    async with faulty(there.app()) as line, asyncio.timeout(PATIENCE):
        for way in (line.proxy.up, line.proxy.down):
            way.piece = PIECES[pieces]
            if jitter is not None:
                way.delay = lambda: 0.005 + random.uniform(0.0, jitter)
        async with line.connect() as client:
            working = await started(client.call("work"))
            calls = [client.call("echo", payload) for payload in payloads]
            assert await asyncio.gather(*calls) == payloads
            working.cancel()
            assert await client.call("echo", b"after it") == b"after it"
            assert there.reasons == ["reset"]
        counts = await line.settled()
    assert counts.calls_answered == len(payloads) + 1
    assert counts.calls_reset == 1


async def working_call(line: Line, there: Work, **limits: Any) -> tuple[sockrpc.Client, asyncio.Task[bytes]]:
    """A client, and a call of it that the server works on."""
    client = await line.connect(**limits)
    call = await started(client.call("work"))
    await until(lambda: there.calls)
    return client, call


async def test_a_line_that_is_silent_towards_the_server_is_given_up_there() -> None:
    there = Work()
    async with faulty(there.app(), **KEEPALIVE) as line, asyncio.timeout(PATIENCE):
        client, call = await working_call(line, there, **OFF)
        line.proxy.up.stall()
        began = time.monotonic()
        await until(lambda: there.reasons == ["lost"])
        assert time.monotonic() - began < KEEPALIVE["ping_interval"] + KEEPALIVE["ping_timeout"] + LATE
        # The other way still carries the end of the connection.
        with pytest.raises(sockrpc.ConnectionLost):
            await call
        await client.wait_closed()
        assert (await line.settled()).calls_lost == 1
    assert there.cancels == [1]


async def test_a_line_that_is_silent_towards_the_client_is_given_up_there() -> None:
    there = Work()
    async with faulty(there.app(), **OFF) as line, asyncio.timeout(PATIENCE):
        client, call = await working_call(line, there, **KEEPALIVE)
        line.proxy.down.stall()
        began = time.monotonic()
        with pytest.raises(sockrpc.ConnectionLost, match="keepalive"):
            await call
        assert time.monotonic() - began < KEEPALIVE["ping_interval"] + KEEPALIVE["ping_timeout"] + LATE
        await client.wait_closed()
        assert (await line.settled()).calls_lost == 1
    assert there.cancels == [1]


@pytest.mark.faults
async def test_a_stall_that_ends_in_time_costs_nothing_but_time() -> None:
    there = Work()
    async with faulty(there.app(), ping_interval=0.1, ping_timeout=5.0) as line, asyncio.timeout(PATIENCE):
        client, call = await working_call(line, there, ping_interval=0.1, ping_timeout=5.0)
        for way in (line.proxy.up, line.proxy.down):
            way.stall()
        calls = [await started(client.call("echo", str(n))) for n in range(50)]
        call.cancel()
        for given_up in calls[40:]:
            given_up.cancel()
        await asyncio.sleep(0.5)
        assert not any(each.done() for each in calls[:40])
        for way in (line.proxy.up, line.proxy.down):
            way.flow()
        assert await asyncio.gather(*calls[:40]) == [str(n).encode() for n in range(40)]
        await until(lambda: there.reasons == ["reset"])
        await client.close()
        counts = await line.settled()
    assert counts.calls_lost == 0


@pytest.mark.parametrize("closing", ["server", "client"])
async def test_a_close_that_nobody_acknowledges_ends_by_close_timeout(closing: str) -> None:
    there = Work()
    limits: dict[str, Any] = {"close_timeout": 0.4, **OFF}
    async with faulty(there.app(), **limits) as line, asyncio.timeout(PATIENCE):
        client, call = await working_call(line, there, **limits)
        (line.proxy.up if closing == "server" else line.proxy.down).stall()
        began = time.monotonic()
        if closing == "server":
            await line.here.only_socket().close()
        else:
            await client.close()
        assert 0.35 < time.monotonic() - began < 0.4 + LATE
        with pytest.raises((sockrpc.ConnectionLost, sockrpc.ConnectionClosed)):
            await call
        await client.wait_closed()
        await line.settled()
    assert there.reasons == ["lost"]


@pytest.mark.faults
async def test_a_client_that_never_reads_is_given_up_and_holds_little_memory_meanwhile() -> None:
    app = sockrpc.App()
    size, high = 100_000, 300_000
    app.method("large")(lambda call: bytes(size))
    limits = {"output_high_bytes": high, "output_low_bytes": 100_000, "stall_timeout": 0.4}
    async with faulty(app, **limits, **OFF) as line, asyncio.timeout(PATIENCE):
        client = await line.connect(**OFF)
        line.proxy.down.stall()
        calls = [await started(client.call("large")) for _ in range(200)]
        socket = line.here.only_socket()
        most = 0
        while not has_ended(socket):
            most = max(most, unsent_bytes(socket))
            await asyncio.sleep(0)
        assert (socket.close_reason or "").startswith("stalled")
        assert high <= most <= high + size + 1000
        line.proxy.down.flow()
        for call in calls:
            await asyncio.wait([call])
            assert isinstance(call.exception(), sockrpc.ConnectionLost) or call.result() == bytes(size)
        await client.wait_closed()
        assert (await line.settled()).calls_started < 200


# A cancel and an answer that cross


async def test_a_cancel_behind_an_answer_that_is_under_way_is_harmless() -> None:
    there = Work()
    async with faulty(there.app()) as line, asyncio.timeout(PATIENCE):
        client, call = await working_call(line, there)
        line.proxy.down.stall()
        there.may_answer.set()
        await until(lambda: line.counts.calls_answered == 1)
        sent = line.proxy.link.passed["server"]
        call.cancel()
        await until(lambda: line.proxy.link.passed["server"] > sent)
        line.proxy.down.flow()
        assert await client.call("echo", b"next") == b"next"
        await client.close()
        counts = await line.settled()
    assert (counts.calls_answered, counts.calls_reset, there.cancels) == (2, 0, [])


async def test_a_cancel_before_an_answer_that_could_have_been_sent_is_harmless() -> None:
    there = Work()
    async with faulty(there.app()) as line, asyncio.timeout(PATIENCE):
        client, call = await working_call(line, there)
        line.proxy.up.stall()
        call.cancel()
        await asyncio.wait([call])
        there.may_unwind.clear()
        line.proxy.up.flow()
        await until(lambda: there.reasons == ["reset"])
        # The work would have its answer now, and unwinds instead.
        there.may_answer.set()
        there.may_unwind.set()
        assert await client.call("echo", b"next") == b"next"
        await client.close()
        counts = await line.settled()
    assert (counts.calls_answered, counts.calls_reset, there.cancels) == (1, 1, [1])


async def test_reconnecting_through_cuts_replays_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockrpc.dial.reconnecting, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(sockrpc.dial.reconnecting, "LONGEST_DELAY", 0.01)
    seen: list[bytes] = []
    app = sockrpc.App()

    @app.method("note")
    async def note(call: sockrpc.Call) -> None:
        seen.append(call.payload)
        await asyncio.sleep(0)

    async with faulty(app) as line, asyncio.timeout(PATIENCE):
        chance = random.Random(1)
        line.proxy.up.piece = lambda: 50
        sent = lost = 0
        async for client in line.connect():
            line.proxy.up.cut_after = line.proxy.link.passed["server"] + chance.randrange(1, 1000)
            line.proxy.up.cut_how = chance.choice(CUTS)
            try:
                while sent < 300:
                    sent += 1
                    await client.call("note", str(sent))
            except sockrpc.ConnectionLost:
                lost += 1
                line.proxy.up.cut_after = None
                continue
            line.proxy.up.cut_after = None
            break
        await client.close()
        await line.settled()
    assert lost > 3
    assert len(seen) == len(set(seen))
    assert sent - lost <= len(seen) <= sent
