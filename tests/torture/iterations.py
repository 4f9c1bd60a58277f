"""How long is the loop's longest iteration, over every kind of event with thousands of calls behind it?

``python -m tests.torture.iterations [NAME...] [--loop uvloop]`` prints a table.
"""

from __future__ import annotations

import argparse
import asyncio

from tests.kit.loops import LOOPS, new_event_loop
from tests.torture.events import SCENARIOS


def measure(name: str, loop_kind: str) -> float:
    """Milliseconds."""
    loop = new_event_loop(loop_kind)
    try:
        asyncio.set_event_loop(loop)
        return 1000 * loop.run_until_complete(SCENARIOS[name]())  # type: ignore[arg-type]
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        asyncio.set_event_loop(None)
        loop.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--loop", choices=LOOPS)
    parser.add_argument("--times", type=int, default=2)
    options = parser.parse_args()
    for name in options.names or SCENARIOS:
        for kind in [options.loop] if options.loop else LOOPS:
            try:
                took = min(measure(name, kind) for _ in range(options.times))
            except TimeoutError:
                print(f"{name:55s} {kind:8s} does not come to its end", flush=True)
                continue
            print(f"{name:55s} {kind:8s} {took:8.1f} ms{'  TOO LONG' if took > 10 else ''}", flush=True)


if __name__ == "__main__":
    main()
