"""Random faults under random calls: whatever the line does, both sides keep their promises.

The seed is in the name of the test; SOCKRPC_SEED adds another one, SOCKRPC_FAULT_SECONDS makes it last.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from typing import Any

import pytest

import sockrpc
import sockrpc.dial.reconnecting
from tests.faults.lines import Line, faulty
from tests.faults.proxy import How
from tests.kit.support import PATIENCE, V0, V1

pytestmark = pytest.mark.faults

SECONDS = float(os.environ.get("SOCKRPC_FAULT_SECONDS", "1.5"))
SEEDS = [1, 2, *([int(os.environ["SOCKRPC_SEED"])] if "SOCKRPC_SEED" in os.environ else [])]
CUTS: list[How] = ["fin", "rst"]
LIMITS: dict[str, Any] = {
    "ping_interval": 0.1,
    "ping_timeout": 0.15,
    "stall_timeout": 0.2,
    "close_timeout": 0.1,
    "output_high_bytes": 60_000,
    "output_low_bytes": 10_000,
    "output_max_bytes": 200_000,
}


class There:
    """The server's side: what began, what ended, and how.

    Attributes:
        seen: How often each request was started, by its payload.
        begun, ended: Of the work.
        undone: Undo hooks that ran.
        cancels: What `cancelling()` said at each CancelledError.
    """

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.seen: Counter[bytes] = Counter()
        self.begun = self.ended = self.undone = self.aborted = 0
        self.cancels: Counter[int] = Counter()
        self.connected = self.disconnected = 0
        self.app = sockrpc.App()
        self.app.method("plain")(self.plain)
        self.app.method("work")(self.work)
        self.app.method("large")(self.large)
        self.app.on("ping")(self.ping)
        self.app.on_connect(self.on_connect)
        self.app.on_disconnect(self.on_disconnect)

    def on_connect(self, socket: sockrpc.Socket) -> None:
        self.connected += 1

    def on_disconnect(self, socket: sockrpc.Socket) -> None:
        self.disconnected += 1

    def plain(self, call: sockrpc.Call) -> bytes:
        self.seen[call.payload] += 1
        return call.payload

    def undo(self) -> None:
        self.undone += 1

    async def work(self, call: sockrpc.Call) -> bytes:
        self.seen[call.payload] += 1
        self.begun += 1
        call.on_abort(self.undo)
        try:
            await asyncio.sleep(self.chance.random() * 0.03)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            self.cancels[task.cancelling()] += 1
            self.aborted += 1
            raise
        finally:
            self.ended += 1
        return call.payload

    async def large(self, call: sockrpc.Call) -> bytes:
        self.seen[call.payload] += 1
        await asyncio.sleep(0)
        return call.payload + bytes(30_000)

    async def ping(self, notification: sockrpc.Notification) -> None:
        try:
            await notification.socket.notify("pong", notification.payload)
        except sockrpc.ConnectionLost:
            pass


class Here:
    """The client's side: random calls, cancels and notifications, on whatever connection there is."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.made = 0
        self.late = 0  # calls with a time-out, which may be over when they come
        self.outcomes: Counter[str] = Counter()
        self.is_over = asyncio.Event()

    async def run(self, connecting: sockrpc.connect) -> None:
        async for client in connecting:
            self.outcomes["connected"] += 1
            workers = [asyncio.ensure_future(self.work(client)) for _ in range(8)]
            listening = asyncio.ensure_future(self.listen(client))
            await asyncio.wait([*workers, listening])
            for worker in [*workers, listening]:
                worker.result()
            await client.close()
            assert client.status() == ([], [])
            if self.is_over.is_set():
                return

    async def listen(self, client: sockrpc.Client) -> None:
        try:
            async for payload in client.on("pong"):
                assert payload == b"ping"
        except (sockrpc.ConnectionLost, sockrpc.ConnectionClosed):
            pass

    async def work(self, client: sockrpc.Client) -> None:
        try:
            while not self.is_over.is_set():
                await self.call(client)
        except (sockrpc.ConnectionLost, sockrpc.ConnectionClosed):
            self.outcomes["lost"] += 1
        else:
            await client.close()

    async def call(self, client: sockrpc.Client) -> None:
        self.made += 1
        method = self.chance.choice(("plain", "work", "work", "large"))
        payload = b"%d %s" % (self.made, bytes(self.chance.choice((0, 10, 200, 20_000))))
        timeout = self.chance.choice((None, None, 0.0, 0.002, 0.01))
        self.late += timeout is not None
        if self.chance.random() < 0.1:
            await client.notify("ping", b"ping")
        try:
            answer = await client.call(method, payload, timeout=timeout)
        except TimeoutError:
            assert timeout is not None
            self.outcomes["reset"] += 1
            return
        assert answer == (payload + bytes(30_000) if method == "large" else payload)
        self.outcomes["answered"] += 1


async def spoil(line: Line, chance: random.Random, seconds: float) -> list[str]:
    """Do this and that to the line for some seconds; returns what, for people."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    done = []
    ways = {"up": line.proxy.up, "down": line.proxy.down}
    while loop.time() < end:
        name = chance.choice(list(ways))
        way = ways[name]
        what = chance.choice(("cut", "cut after", "stall", "split", "delay", "nothing"))
        done.append(f"{what} {name}")
        way.piece = way.delay = way.cut_after = None
        if what == "cut":
            line.proxy.cut(chance.choice(CUTS))
        elif what == "cut after":
            way.cut_how = chance.choice(CUTS)
            way.cut_after = chance.choice((1, 150, 400, 1000, 50_000))
        elif what == "stall":
            way.stall()
            await asyncio.sleep(chance.choice((0.005, 0.05, 0.4)))
            way.flow()
        elif what == "split":
            way.piece = lambda: chance.choice((1, 5, 100, 3000))
        elif what == "delay":
            way.delay = lambda: chance.random() * 0.02
        await asyncio.sleep(chance.random() * 0.05)
    for way in ways.values():
        way.piece = way.delay = way.cut_after = None
        way.flow()
    return done


@pytest.mark.parametrize("seed", SEEDS)
async def test_random_faults_under_random_calls(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockrpc.dial.reconnecting, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(sockrpc.dial.reconnecting, "LONGEST_DELAY", 0.01)
    protocols = V1 if seed % 2 else V0
    there = There(random.Random(f"there {seed}"))
    heres = [Here(random.Random(f"here {seed} {n}")) for n in range(3)]
    async with faulty(there.app, **LIMITS) as line, asyncio.timeout(SECONDS + 3 * PATIENCE):
        running = [
            asyncio.ensure_future(here.run(line.connect(**LIMITS, open_timeout=0.3, protocols=protocols)))
            for here in heres
        ]
        done = await spoil(line, random.Random(f"line {seed}"), SECONDS)
        print(f"seed {seed}: {', '.join(done)}")  # noqa: T201
        for here in heres:
            here.is_over.set()
        for each in running:
            await each
        counts = await line.settled()
        print(counts, [here.outcomes for here in heres], there.cancels)  # noqa: T201

    outcomes = sum((here.outcomes for here in heres), Counter[str]())
    # It was a storm, and work was done in it.
    assert outcomes["connected"] > len(heres)
    assert outcomes["answered"] > 5
    # Each client numbers its calls anew; none was started twice.
    assert max(there.seen.values()) <= len(heres)
    # Each work ended once; whatever aborted it cancelled it once and undid it once, and nothing else.
    assert there.begun == there.ended
    assert set(there.cancels) <= {1}
    assert there.undone >= there.aborted
    assert there.connected == there.disconnected
    assert counts.calls_stopped == 0
    if protocols is V0:
        assert counts.calls_failed == counts.calls_timed_out == 0
    # In v1 time-outs travel: the callee's clock ends calls too, and what is late when it comes is refused.
    assert counts.calls_failed <= sum(here.late for here in heres)
    assert counts.calls_answered >= outcomes["answered"]
    assert counts.notifications_failed == 0
    ended = counts.calls_answered + counts.calls_reset + counts.calls_lost + counts.calls_timed_out
    assert ended <= sum(here.made for here in heres)
