"""The harness: a server in a process of its own, an attack on it, and a witness that is to notice nothing."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.hostile.peer import PATIENCE, Peer
from tests.processes import ROOT

HERE = Path(__file__).parent
MIB = 1 << 20
KIB = 1 << 10

# The slowest answer that the witness may see, in seconds, where a test does not say otherwise: what
# the handlers of one read may take (5 ms), several times over, and what a shared machine takes away.
SLOWEST = 0.25


class Target:
    """A server under attack."""

    def __init__(self, process: subprocess.Popen[str], tls: bool) -> None:
        assert process.stdout is not None
        self.process = process
        self.tls = tls
        self.peers: list[Peer] = []
        self.port = int(process.stdout.readline())

    def peer(self, *, opened: bool = True, tls: bool | None = None) -> Peer:
        """A new connection, closed when the server goes at the latest."""
        peer = Peer(self.port, opened=opened, tls=self.tls if tls is None else tls)
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

    def cpu_seconds(self) -> float:
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

    seconds = slowest = 0.0
    calls = grown = left = 0


@contextlib.contextmanager
def witnessed(there: Target) -> Iterator[dict[str, Any]]:
    """Another client calls all the time; what it has seen stands in the dictionary when the block ends."""
    command = [
        sys.executable,
        "-m",
        "tests.hostile.witness",
        str(there.port),
        "tls" if there.tls else "plain",
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
    leaves: int | None = None,
    slowest: float = SLOWEST,
) -> Iterator[Measured]:
    """Hold what happens in the block to its bounds.

    Args:
        there: The server.
        within: Seconds that the block may take.
        grows: Bytes by which the server's memory may grow meanwhile, at its peak.
        leaves: Bytes by which it may be larger afterwards; `grows` by default.
        slowest: Seconds that the slowest answer to the witness may take.
    """
    measured = Measured()
    with witnessed(there) as seen:
        there.forget_peak()
        before = there.memory("VmRSS")
        begun = time.monotonic()
        yield measured
        measured.seconds = time.monotonic() - begun
        measured.grown = there.memory("VmHWM") - before
        measured.left = there.memory("VmRSS") - before
    measured.calls, measured.slowest = seen["calls"], seen["slowest"]
    print(  # noqa: T201
        f"{measured.seconds:.2f} s; memory {measured.grown / MIB:+.1f} MiB at the peak,"
        f" {measured.left / MIB:+.1f} MiB after; witness: {measured.calls} calls,"
        f" the slowest {measured.slowest * 1000:.1f} ms"
    )
    assert there.process.poll() is None, "the server has died"
    assert measured.seconds <= within
    assert measured.grown <= grows
    assert measured.left <= (grows if leaves is None else leaves)
    assert measured.slowest <= slowest
    # It has not just been waiting; ten of them are made after the attack.
    assert measured.calls >= 10 + int(measured.seconds / slowest)
