"""Throughput of several workers against one: `python -m bench.workers`.

The load generator needs processor time too, and no process is pinned: with two cores, two workers and the
generator share them. So "echo", where the generator costs about as much as the server, shows how much the
machine has left; "work", where it costs almost nothing, shows how much workers add.
The best rounds are those with the least other load on the machine. The processor time that a call costs
the servers does not depend on other load: if it stays the same, one more core is worth one core.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import machine
from bench.arena import ROOT
from bench.loading import PATIENCE, LoadError, program
from bench.memory import processor_seconds
from bench.tables import markdown, number, paired_ratio, spread

METHODS = ("echo", "work")


class Served:
    """A running `sockrpc serve --workers N`."""

    def __init__(self, workers: int, log: Path) -> None:
        self.workers = workers
        words = ["serve", "bench.peers.workers_app:app", "--workers", str(workers), "--port", "0", "--json"]
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sockrpc", *words],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server did not start: {log.read_text()}")
        self.port = int(json.loads(line)["listening"].rstrip("/").rpartition(":")[2])

    def processor_seconds(self) -> float:
        """Return the processor time of the server's processes so far."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return sum(map(processor_seconds, [pid, *map(int, children)]))

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.communicate(timeout=PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()


def measure(port: int, method: str, connections: int, in_flight: int, seconds: float) -> dict[str, Any]:
    """Run the load generator once; it checks every answer."""
    options = {
        "port": port,
        "dialect": "rpc",
        "method": method,
        "path": "/",
        "connections": connections,
        "in-flight": in_flight,
        "size": 32,
        "seconds": seconds,
    }
    words = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    done = subprocess.run(
        [str(program()), "calls", *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE + seconds,
        check=False,
    )
    if done.returncode:
        raise LoadError(done.stderr.strip())
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.workers", description=__doc__)
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[1, 2], help="numbers, the first is the base"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each round")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--in-flight", type=int, default=16)
    parser.add_argument("--json", type=Path, help="write every round here")
    options = parser.parse_args()
    complaint = machine.complaint_about_build()
    if complaint:
        print(f"not measured: {complaint}", file=sys.stderr)
        return 2
    rates: dict[str, dict[int, list[float]]] = {
        method: {count: [] for count in options.workers} for method in METHODS
    }
    costs: dict[str, dict[int, list[float]]] = {
        method: {count: [] for count in options.workers} for method in METHODS
    }
    raw: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        servers: list[Served] = []
        try:
            servers += (Served(count, Path(folder) / f"log{count}") for count in options.workers)
            for _ in range(options.rounds):
                for method in METHODS:
                    for server in servers:
                        before = server.processor_seconds()
                        result = measure(
                            server.port, method, options.connections, options.in_flight, options.seconds
                        )
                        spent = server.processor_seconds() - before
                        costs[method][server.workers].append(1e6 * spent / result["answers"])
                        rates[method][server.workers].append(float(result["answers_per_second"]))
                        raw.append({"workers": server.workers, "method": method, **result})
        finally:
            for server in servers:
                server.stop()
    base, *others = options.workers
    rows = []
    for method in METHODS:
        for count in (base, *others):
            mine, first = rates[method][count], rates[method][base]
            ratios = [a / b for a, b in zip(mine, first, strict=True)]
            best = max(mine)
            rows.append(
                [
                    method,
                    str(count),
                    number(best),
                    number(best / max(first)),
                    number(paired_ratio(mine, first)),
                    f"{spread(ratios):.0%}",
                    number(min(costs[method][count])),
                ]
            )
    load = f"{options.connections} connections, {options.in_flight} calls in flight on each"
    print(f"{os.cpu_count()} cores; {load}\n")
    head = [
        "method",
        "workers",
        "calls/s, best round",
        f"best against {base}",
        "median of pairs",
        "spread",
        "server µs/call",
    ]
    print(markdown(head, rows))
    if options.json is not None:
        options.json.write_text(json.dumps(raw))
    return 0


if __name__ == "__main__":
    sys.exit(main())
