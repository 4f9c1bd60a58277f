"""A well-behaved client, a process of its own: calls without a pause, and notes how long answers take.

Time in which the system let it, or the server, wait for a processor is not counted: that is the doing
of whatever else runs, the attacker included, and no server can do anything about it.

Arguments: port, "tls" or "plain", the server's process. Prints a line when it is connected; when its
standard input ends, JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

from tests.hostile.peer import Peer

# Between two calls, in seconds: it shall not be a load itself.
PAUSE = 0.001

# Made when it is all over: the server still answers.
CALLS_AFTER = 10


def waited(processes: list[str]) -> float:
    """Seconds that the main threads of processes were ready to run and did not, so far."""
    # The second number, in nanoseconds: sched-stats.rst of the kernel's documentation.
    texts = [Path(f"/proc/{process}/schedstat").read_text(encoding="ascii") for process in processes]
    return sum(int(text.split()[1]) for text in texts) / 1e9


def main() -> None:
    processes = ["self", sys.argv[3]]
    with Peer(int(sys.argv[1]), tls=sys.argv[2] == "tls") as peer:
        over = threading.Event()
        threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
        took, more = [], CALLS_AFTER
        print("ready", flush=True)  # noqa: T201
        while not over.wait(PAUSE) or more:
            more -= over.is_set()
            waited_before, begun = waited(processes), time.monotonic()
            assert peer.call(1, "echo", b"witness") == b"witness"
            ended = time.monotonic()
            took.append(max(0.0, ended - begun - waited(processes) + waited_before))
        took.sort()
        seen = {"calls": len(took), "slowest": took[-1], "usual": took[len(took) * 99 // 100]}
        print(json.dumps(seen), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
