"""Load: 64 connections with 16 calls in flight each, of mixed handlers, one call in four reset at random.

No error, no growth of the server's memory, nothing left in its tables. SOCKRPC_SEED chooses another load.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sockrpc
from tests.kit.loops import LOOPS, new_event_loop

CONNECTIONS = 64
IN_FLIGHT = 16
RESET_SHARE = 0.25
SEED = int(os.environ.get("SOCKRPC_SEED", "20240229"))
PATIENCE = 60.0

METHODS = (
    *("plain", "coroutine", "turn", "sleep", "large", "cleanup", "stubborn", "early", "spawned"),
    *("guarded", "undone", "completing", "timed", "thread"),
)

# Memory is measured in each of that many parts of the whole time ...
PARTS = 4
SAMPLES_PER_PART = 12
# ... and may vary by this much between two of them. A leak of one small object a call is tens of
# times as much in ten seconds.
TOLERANCE_BYTES = 2 * 1024 * 1024


@contextlib.contextmanager
def server_process() -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """A server in a process of its own, and its port."""
    program = Path(__file__).with_name("kit") / "load_server.py"
    command = [sys.executable, "-P", "-W", "error", str(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline()), process
        finally:
            process.kill()


class Load:
    """What the clients do, and what they find."""

    def __init__(self, uri: str, seconds: float) -> None:
        self.uri = uri
        self.seconds = seconds
        self.is_over = False
        self.answered: Counter[str] = Counter()
        self.reset: Counter[str] = Counter()
        self.memory: list[list[int]] = [[] for _ in range(PARTS)]

    async def run(self) -> dict[str, Any]:
        """Drive the load to its end; returns the server's last report."""
        async with asyncio.TaskGroup() as group, sockrpc.connect(self.uri) as observer:
            workers = [group.create_task(self.drive(number)) for number in range(CONNECTIONS)]
            await self.watch(observer)
            self.is_over = True
            await asyncio.wait(workers)
            return await self.rest(observer)

    async def watch(self, observer: sockrpc.Client) -> None:
        """Measure while the load runs; time is what this test is about."""
        for samples in self.memory:
            for _ in range(SAMPLES_PER_PART):
                await asyncio.sleep(self.seconds / PARTS / SAMPLES_PER_PART)
                report = await self.report(observer)
                assert not report["errors"], report["errors"][0]
                samples.append(report["resident_bytes"])

    async def report(self, observer: sockrpc.Client) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(await observer.call("report", timeout=PATIENCE))
        return report

    async def rest(self, observer: sockrpc.Client) -> dict[str, Any]:
        """Wait until the work that was aborted last has ended."""
        async with asyncio.timeout(PATIENCE):
            while True:
                report = await self.report(observer)
                # The report itself is a call, too.
                if report["statistics"]["calls_running"] == report["statistics"]["connections"] == 1:
                    return report

    async def drive(self, number: int) -> None:
        async with sockrpc.connect(self.uri) as client, asyncio.TaskGroup() as group:
            for worker in range(IN_FLIGHT):
                chance = random.Random(f"{SEED}/{number}/{worker}")
                group.create_task(self.work(client, chance))

    async def work(self, client: sockrpc.Client, chance: random.Random) -> None:
        while not self.is_over:
            method = chance.choice(METHODS)
            payload = chance.randbytes(chance.choice((8, 100, 2000)))
            patience = chance.choice((0.0, 0.002, 0.008)) if chance.random() < RESET_SHARE else None
            if chance.random() < 0.02:
                await client.notify("tick", payload)
            await self.call(client, method, payload, patience)

    async def call(self, client: sockrpc.Client, method: str, payload: bytes, patience: float | None) -> None:
        calling = asyncio.ensure_future(client.call(method, payload))
        if patience is not None:
            # Its request is written in this iteration; from then on it is reset at any moment.
            await asyncio.sleep(0)
            await asyncio.wait([calling], timeout=patience)
            if calling.cancel():
                await asyncio.wait([calling])
                assert calling.cancelled()
                self.reset[method] += 1
                return
        async with asyncio.timeout(PATIENCE):
            answer = await calling
        expected = payload + bytes(40_000) if method == "large" else payload
        assert answer == expected, f"{method} was answered with what belongs to another call"
        self.answered[method] += 1


def carry(seconds: float) -> None:
    """Run the load for so many seconds and hold the server to what it owes."""
    print(f"seed {SEED}, {seconds} s")  # noqa: T201
    loop = new_event_loop(LOOPS[-1])
    try:
        with server_process() as (port, process):
            load = Load(f"ws://127.0.0.1:{port}/", seconds)
            report = loop.run_until_complete(load.run())
            process.terminate()
            assert process.stdout is not None
            last = process.stdout.read()
            code = process.wait(PATIENCE)
    finally:
        loop.close()
    medians = [statistics.median(samples) for samples in load.memory]
    counts = report["statistics"]
    print(f"answered {load.answered.total()}, reset {load.reset.total()}")  # noqa: T201
    print(f"resident MiB by quarter: {[round(each / 2**20, 2) for each in medians]}")  # noqa: T201
    print(f"objects at the end: {report['objects']}; {counts}")  # noqa: T201

    assert set(load.answered) == set(load.reset) == set(METHODS), "a kind of handler was never used"
    assert medians[-1] - medians[1] <= TOLERANCE_BYTES, "the server's memory grows"
    check_counts(counts, load, report)
    if sys.platform != "win32":
        assert code == 0
        stopped = json.loads(last)
        assert not stopped["errors"], stopped["errors"][0]
        counts = stopped["statistics"]
        left = {name: counts[name] for name in ("connections", "calls_in_flight", "calls_running")}
        assert left == {"connections": 0, "calls_in_flight": 0, "calls_running": 0}


def check_counts(counts: dict[str, int], load: Load, report: dict[str, Any]) -> None:
    assert counts["calls_in_flight"] == 1
    assert counts["procedures_waiting"] == 0
    assert counts["notifications_running"] == 0
    assert counts["notifications_failed"] == 0
    assert counts["notifications_dropped"] == 0
    assert counts["calls_failed"] == 0
    assert counts["calls_lost"] == 0
    assert counts["calls_timed_out"] == 0
    assert counts["calls_stopped"] == 0
    ended = counts["calls_answered"] + counts["calls_reset"]
    # A call that was reset while it waited has not started.
    assert ended + 1 >= counts["calls_started"]
    # A call that the client gave up may have been answered: the answer crossed its reset. The reports
    # are answered, too, all but the last.
    reports = PARTS * SAMPLES_PER_PART
    assert counts["calls_answered"] >= load.answered.total() + reports
    assert ended >= load.answered.total() + load.reset.total() + reports
    assert counts["calls_reset"] <= load.reset.total()
    # How many cross their answers is the system's affair.
    assert counts["calls_reset"] > load.reset.total() // 25, "hardly any reset found its call"
    # A reset may also come after the handler returned and before its answer was queued.
    assert report["undone"] == report["slowly"] >= report["aborted"] > 0


@pytest.mark.long
def test_ten_seconds_of_load_leave_nothing_behind() -> None:
    carry(10.0)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_ten_minutes_of_load_leave_nothing_behind() -> None:
    carry(600.0)
