"""The harness: a server in a process of its own, an attack on it, and a witness that is to notice nothing."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sockrpc._debug import is_debug
from tests.hostile.peer import PATIENCE, Peer
from tests.kit.processes import ROOT

HERE = Path(__file__).parent
MIB = 1 << 20
KIB = 1 << 10

# The slowest answer that the witness may see, in seconds, where a test does not say otherwise: a few
# turns of 5 ms (what the handlers of one connection may take), and a collection of garbage.
SLOWEST = 0.05
# 99 % of the answers take this part of it at the most.
USUAL = 0.4
ENOUGH_FOR_PERCENTILES = 200

# An interpreter asks the system for memory in arenas of this size, and seldom gives one back.
ARENA = MIB

# `run` has garbage looked for when there are 10,000 young objects: what they take meanwhile, at the most.
YOUNG_GARBAGE = 2 * MIB

# Blocks in use that an attack may leave behind: types' caches, lines of the log. One for each of what
# it did would be many more.
BLOCKS = 2000

# What the witness gets done at the least; it pauses for a millisecond between two calls.
CALLS_A_SECOND = 50

# How long what an attack took may take to be given back, in seconds.
GIVE_BACK = 5.0


def rounds(seconds: float = 0.7) -> Iterator[int]:
    """Once more, until an attack has lasted so long that the witness had its chance to notice it."""
    until = time.monotonic() + seconds
    for n in itertools.count():
        if n and time.monotonic() >= until:
            return
        yield n


class Target:
    """A server under attack."""

    def __init__(self, process: subprocess.Popen[str], tls: bool) -> None:
        assert process.stdout is not None
        self.process = process
        self.tls = tls
        self.peers: list[Peer] = []
        self.port = int(process.stdout.readline())

    def peer(self, *, opened: bool = True, tls: bool | None = None, v1: bool = False) -> Peer:
        """A new connection, closed when the server goes at the latest."""
        peer = Peer(self.port, opened=opened, tls=self.tls if tls is None else tls, v1=v1)
        self.peers.append(peer)
        return peer

    def report(self) -> dict[str, Any]:
        with self.peer() as peer:
            return peer.report()

    def statistics(self) -> dict[str, int]:
        counts: dict[str, int] = self.report()["statistics"]
        return counts

    def lines(self) -> list[str]:
        """What the server has logged: warnings and errors, those of asyncio too."""
        return [f"{level} {name}: {text}" for level, name, text in self.report()["lines"]]

    def until(self, condition: Callable[[dict[str, int]], bool], seconds: float = PATIENCE) -> dict[str, int]:
        """Wait until it holds of the statistics; this connection is among them."""
        deadline = time.monotonic() + seconds
        with self.peer() as peer:
            while not condition(counts := peer.report()["statistics"]):
                assert time.monotonic() < deadline, f"it has not come true within {seconds} s: {counts}"
        return counts

    def memory(self, name: str) -> int:
        """VmRSS or VmHWM, in bytes."""
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        (line,) = (line for line in text.splitlines() if line.startswith(name + ":"))
        return int(line.split()[1]) * KIB

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5", encoding="ascii")

    def give_back(self) -> int:
        """Have it return to the system what its allocators keep for later; blocks in use then."""
        with self.peer() as peer:
            return int(peer.call(1, "give_back"))

    def cpu_used_in(self, seconds: float) -> float:
        """Processor seconds that it uses in so much time."""
        before = self.cpu_seconds()
        with pytest.raises(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.cpu_seconds() - before

    def cpu_seconds(self) -> float:
        """Processor seconds that it has used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def stop(self) -> dict[str, Any]:
        """Stop it gracefully; its last report."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.stdout is not None
        last = self.process.stdout.read()
        assert self.process.wait(PATIENCE) == 0
        report: dict[str, Any] = json.loads(last)
        return report


@contextlib.contextmanager
def target(
    loop: str = "uvloop", *, files: int | None = None, tls: Path | None = None, **limits: Any
) -> Iterator[Target]:
    """A server in a process of its own; limits are keywords, `files` the soft limit of descriptors."""
    options = {"loop": loop, "limits": limits, "files": files, "tls": None if tls is None else str(tls)}
    command = [sys.executable, "-P", "-W", "error", str(HERE / "server.py"), json.dumps(options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            there = Target(process, tls is not None)
            try:
                yield there
            finally:
                for peer in there.peers:
                    peer.line.close()
        finally:
            process.kill()


class Measured:
    """What an attack has cost; complete when its block has ended."""

    seconds = slowest = usual = 0.0
    calls = grown = left = blocks = 0


@contextlib.contextmanager
def witnessed(there: Target) -> Iterator[dict[str, Any]]:
    """Another client calls all the time; what it has seen stands in the dictionary when the block ends."""
    command = [
        sys.executable,
        "-m",
        "tests.hostile.witness",
        str(there.port),
        "tls" if there.tls else "plain",
        str(there.process.pid),
    ]
    pipe = subprocess.PIPE
    seen: dict[str, Any] = {}
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield seen
            output, _ = process.communicate(timeout=PATIENCE)
            seen |= json.loads(output)
        finally:
            process.kill()


@contextlib.contextmanager
def attack(
    there: Target,
    *,
    within: float,
    grows: int,
    leaves: int = ARENA,
    blocks: int = BLOCKS,
    slowest: float = SLOWEST,
) -> Iterator[Measured]:
    """Hold what happens in the block to its bounds.

    Args:
        there: The server.
        within: Seconds that the block may take.
        grows: Bytes by which the server's memory may grow meanwhile, at its peak.
        leaves: Bytes by which it may be larger afterwards.
        blocks: Blocks in use that it may have more of afterwards.
        slowest: Seconds that the slowest answer to the witness may take; 99 % take 40 % of it at most.

    Memory may be more by YOUNG_GARBAGE. A debug build is judged by its blocks only.
    """
    measured = Measured()
    # Collecting garbage stops everything: the witness is not to see that.
    blocks_before = there.give_back()
    with witnessed(there) as seen:
        there.forget_peak()
        before = there.memory("VmRSS")
        begun = time.monotonic()
        yield measured
        measured.seconds = time.monotonic() - begun
        measured.grown = there.memory("VmHWM") - before
    until = time.monotonic() + GIVE_BACK
    while True:
        measured.blocks = there.give_back() - blocks_before
        measured.left = there.memory("VmRSS") - before
        given_back = (measured.left <= leaves + YOUNG_GARBAGE or is_debug()) and measured.blocks <= blocks
        if given_back or time.monotonic() > until:
            break
    measured.calls, measured.slowest, measured.usual = seen["calls"], seen["slowest"], seen["usual"]
    print(  # noqa: T201
        f"{measured.seconds:.2f} s; memory {measured.grown / MIB:+.1f} MiB at the peak,"
        f" {measured.left / MIB:+.1f} MiB and {measured.blocks:+d} blocks after; witness:"
        f" {measured.calls} calls,"
        f" 99 % in {measured.usual * 1000:.1f} ms, the slowest {measured.slowest * 1000:.1f} ms"
    )
    assert there.process.poll() is None, "the server has died"
    assert given_back, "the memory has not come back"
    if is_debug():
        # Slow on purpose, and AddressSanitizer keeps what was freed: there the blocks are what counts.
        return
    assert measured.seconds <= within
    assert measured.grown <= grows + YOUNG_GARBAGE
    assert measured.slowest <= slowest
    assert measured.usual <= slowest * USUAL or measured.calls < ENOUGH_FOR_PERCENTILES
    # It has not just been waiting; ten of them are made after the attack.
    assert measured.calls >= 10 + int(measured.seconds * CALLS_A_SECOND)
