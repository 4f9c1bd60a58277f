"""A well-behaved client, a process of its own: calls without a pause, and notes how long answers take.

Arguments: port, "tls" or "plain". Prints a line when it is connected; when its standard input ends, JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from tests.hostile.peer import Peer

# Between two calls, in seconds: it shall not be a load itself.
PAUSE = 0.001

# Made when it is all over: the server still answers.
CALLS_AFTER = 10


def main() -> None:
    with Peer(int(sys.argv[1]), tls=sys.argv[2] == "tls") as peer:
        over = threading.Event()
        threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
        took, more = [], CALLS_AFTER
        print("ready", flush=True)  # noqa: T201
        while not over.wait(PAUSE) or more:
            more -= over.is_set()
            begun = time.monotonic()
            assert peer.call(1, "echo", b"witness") == b"witness"
            took.append(time.monotonic() - begun)
        took.sort()
        seen = {"calls": len(took), "slowest": took[-1], "usual": took[len(took) * 99 // 100]}
        print(json.dumps(seen), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
