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
import linecache
import os
import random
import re
import sys
import time
import urllib.parse
from collections.abc import Callable

from tests.kit.loops import LOOPS, new_event_loop
from tests.torture.rounds import Round

# The last rounds are repeated, so that all that is new is what was not given back; rounds of new seeds would
# go on to fill caches. A connection may leave half a block of memory on average: one that leaves the smallest
# object leaves a whole one, each time. So one repetition that adds less is enough.
BLOCKS_A_CONNECTION = 0.5
REPEATED = 8
REPETITIONS = 6


def blocks_in_use() -> int:
    """Those of Python's allocator, without those of caches that can be emptied."""
    re.purge()
    linecache.clearcache()
    urllib.parse.clear_cache()
    # 3.13 has the second as well, and warns of it.
    (getattr(sys, "_clear_internal_caches", None) or sys._clear_type_cache)()  # noqa: SLF001 - its only name
    gc.collect()
    return sys.getallocatedblocks()


def growth(run: Callable[[str], int], seeds: list[str]) -> list[float]:
    """How many blocks each repetition of the rounds has added a connection, until one adds hardly any."""
    grown: list[float] = []
    while len(grown) < REPETITIONS and not (grown and grown[-1] <= BLOCKS_A_CONNECTION):
        before = blocks_in_use()
        connections = sum(run(seed) for seed in seeds)
        grown.append(round((blocks_in_use() - before) / connections, 2))
    return grown


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
    # Neither collected nor counted after each round: what was imported.
    gc.collect()
    gc.freeze()
    faults: collections.Counter[str] = collections.Counter()

    def run(seed: str) -> int:
        this = Round(seed, options.loop, tame=options.tame)
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
        return this.connections

    if options.round:
        for _ in range(options.times):
            run(options.round)
    else:
        seeds = []
        # A quarter of the time is for the repetitions.
        until = time.monotonic() + options.seconds * 0.75
        while time.monotonic() < until or not seeds:
            seeds.append(f"{options.seed}:{len(seeds)}")
            run(seeds[-1])
        repeated = seeds[-max(REPEATED, len(seeds) // 10) :]
        print(f"{len(seeds)} rounds, of which {len(repeated)} are repeated", flush=True)
        grown = growth(run, repeated)
        print(f"blocks in use that each repetition has added, a connection: {grown}", flush=True)
        if grown[-1] > BLOCKS_A_CONNECTION:
            faults["the memory grows"] += 1
    for kind, count in faults.most_common():
        print(f"{count:6d} {kind}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
