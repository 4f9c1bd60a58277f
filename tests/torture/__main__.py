"""Tortures the server for some seconds: ``python -m tests.torture --seconds 30 [--seed N]``.

``--round SEED:N`` repeats one round, as it is printed where it failed. SOCKRPC_SEED in the environment
does the same as --seed. Exits with 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import faulthandler
import gc
import os
import random
import sys
import time

from tests.conftest import LOOPS, new_event_loop
from tests.torture.rounds import Round

# Blocks in use that a round may add, on average. For some fifty rounds caches still grow; what one connection
# of a round would leave, if it were kept, is more.
BLOCKS_A_ROUND = 400
WARM = 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument(
        "--seed", default=os.environ.get("SOCKRPC_SEED") or str(random.SystemRandom().randrange(10**6))
    )
    parser.add_argument("--round", help="SEED:N; this round only")
    parser.add_argument("--times", type=int, default=1, help="run that round so often")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"])
    parser.add_argument(
        "--tame", action="store_true", help="without exceptions that are no Exception, and odd results"
    )
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    faulthandler.enable()
    faulthandler.dump_traceback_later(options.seconds + 150, exit=True)
    print(f"seed {options.seed}", flush=True)
    for kind in LOOPS:
        # A loop's first opens what stays open.
        loop = new_event_loop(kind)
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
    until = time.monotonic() + options.seconds
    faults: collections.Counter[str] = collections.Counter()
    blocks: list[int] = []
    n = 0
    while (n < options.times) if options.round else (time.monotonic() < until):
        this = Round(options.round or f"{options.seed}:{n}", options.loop, tame=options.tame)
        n += 1
        if options.verbose:
            print(this, flush=True)
        begun = time.monotonic()
        found = this.run()
        if options.verbose:
            print(f"    {time.monotonic() - begun:.2f} s", flush=True)
        for kind, count in found.items():
            if kind not in faults:
                print(
                    f"FAULT {kind}, {count} times: {this.world.examples[kind][:700]}\n  in {this}", flush=True
                )
            faults[kind] += count
        del this
        gc.collect()
        blocks.append(sys.getallocatedblocks())
    print(f"{n} rounds; blocks in use {blocks[: 2 * WARM : WARM]} at first, {blocks[-1]} at last", flush=True)
    if len(blocks) > 3 * WARM:
        # What is loaded and kept the first time it is needed comes in the first half.
        middle = len(blocks) // 2
        grown = min(blocks[-WARM:]) - min(blocks[middle : middle + WARM])
        if grown > BLOCKS_A_ROUND * (len(blocks) - middle):
            faults[f"the memory grows: {grown} blocks"] += 1
    for kind, count in faults.most_common():
        print(f"{count:6d} {kind}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
