"""Measures every promise about speed: `python -m bench.targets`, or `make bench-targets`.

Comparisons use rounds that alternate; a figure is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

from bench import machine
from bench.arena import (
    Arena,
    Contender,
    Result,
    Rounds,
    Tasks,
    alternate,
    arena,
    call_bytes,
    client_calls,
    idle_bytes,
    limit,
    one_shot,
    python,
    task_bytes,
)
from bench.loading import Conversation, load, on_core, program
from bench.mass_abort import mass_abort
from bench.promises import (
    CONNECTIONS,
    FEWEST_ROUNDS,
    IN_FLIGHT,
    RATE,
    Measured,
    Settings,
    Target,
    calls,
    compared,
    values,
)
from bench.tables import markdown, spread
from bench.targets_v1 import MEASUREMENTS_V1
from bench.wire import request_bytes

EAGER = sys.version_info >= (3, 12)

PLAIN = Contender("plain function", "sockrpc_server")
COROUTINE = Contender("coroutine", "sockrpc_server", method="coroutine")
SUSPENDING = Contender("coroutine that suspends", "sockrpc_server", method="suspending")
PICOWS = Contender("picows echo", "picows_echo", "echo")
WEBSOCKETS = Contender("websockets echo", "websockets_echo", "echo")
BY_HAND = Contender("dict of tasks on websockets", "websockets_rpc", method="coroutine")
RAISED = Contender("limits raised", "sockrpc_server", arguments={"raised": 1})
TRANSPORT = Contender("uvloop transport", "transport", "ready")
FAN_OUT_LIMIT = Contender("limit", "fanout_limit", "echo")
LIMIT = limit()


def measure_load(here: Arena, settings: Settings) -> Measured:
    """Prove that the load generator is no bottleneck: two million small frames a second on one core."""
    command = on_core(machine.SERVER_CORE, [str(program("responder")), str(request_bytes("plain", 32))])
    with Conversation(command) as responder:
        port = int(responder.hear())
        options = {"dialect": "ready", "connections": 16, "in_flight": 64, "seconds": settings.seconds}
        rounds = alternate(settings.rounds, {"responder": lambda: load("calls", port, **options)})
    fastest = max(values(rounds, "responder", *RATE))
    per_core = max(result["answers_per_second"] / result["load_cpu_share"] for result in rounds["responder"])
    return [
        Target("load generator: frames a second for one second of its core", per_core, 2e6, True),
        Target("load generator: answers a second against ready-made ones in C", fastest, 2e6, True),
    ], rounds


def measure_small(here: Arena, settings: Settings) -> Measured:
    """Measure 32 bytes, 64 connections with 16 calls in flight each."""
    contenders = [LIMIT, PLAIN, COROUTINE, SUSPENDING, PICOWS, BY_HAND]
    size = {"connections": CONNECTIONS, "in_flight": IN_FLIGHT}
    with Tasks() as tasks:
        measured = {each.name: calls(here, each, settings, **size) for each in contenders}
        measured["tasks"] = lambda: tasks.rate(settings.seconds, CONNECTIONS * IN_FLIGHT)
        rounds = alternate(settings.rounds, measured)
    echo = f"32 B, {CONNECTIONS} × {IN_FLIGHT}"
    rate = partial(compared, rounds, path=RATE)
    found = [
        rate(f"{echo}, plain function: of the limit", PLAIN.name, LIMIT.name, bound=0.70),
        rate(f"{echo}, plain function: × bare picows echo", PLAIN.name, PICOWS.name, bound=10),
    ]
    if EAGER:
        found += [
            rate(f"{echo}, coroutine: of the limit", COROUTINE.name, LIMIT.name, bound=0.33),
            rate(f"{echo}, coroutine: × bare picows echo", COROUTINE.name, PICOWS.name, bound=5),
        ]
    else:
        found.append(
            rate(
                f"{echo}, coroutine on 3.11: × dict of tasks on websockets",
                COROUTINE.name,
                BY_HAND.name,
                bound=3,
            )
        )
    suspends = f"{echo}, coroutine that suspends once: of asyncio's own tasks"
    return [*found, rate(suspends, SUSPENDING.name, "tasks", bound=0.80)], rounds


def measure_one_in_flight(here: Arena, settings: Settings) -> Measured:
    """Measure one call in flight, on one connection and on 64, in alternating rounds."""
    measured = {}
    for connections in (1, CONNECTIONS):
        for each in (LIMIT, PLAIN):
            size = {"connections": connections, "in_flight": 1}
            measured[f"{each.name}, {connections}"] = calls(here, each, settings, **size)
    rounds = alternate(max(settings.rounds, FEWEST_ROUNDS), measured)
    ours, its = f"{PLAIN.name}, 1", f"{LIMIT.name}, 1"
    time = partial(compared, rounds, ours=ours, other=its, at_least=False)
    return [
        time("one in flight: round trip p50, of the limit's", path=("round_trip_us", "p50"), bound=1.05),
        time("one in flight: round trip p99, of the limit's", path=("round_trip_us", "p99"), bound=1.25),
        compared(
            rounds,
            f"{CONNECTIONS} connections, one in flight each: of the limit",
            f"{PLAIN.name}, {CONNECTIONS}",
            f"{LIMIT.name}, {CONNECTIONS}",
            RATE,
            0.95,
        ),
    ], rounds


def measure_large(here: Arena, settings: Settings) -> Measured:
    sizes = {"64 KiB": (64 * 1024, 16, 4), "1 MiB": (1024 * 1024, 4, 2)}
    measured = {}
    for text, (size, connections, in_flight) in sizes.items():
        for each in (PLAIN, PICOWS):
            options = {"size": size, "connections": connections, "in_flight": in_flight}
            measured[f"{each.name}, {text}"] = calls(here, each, settings, **options)
    rounds = alternate(settings.rounds, measured)
    return [
        compared(
            rounds,
            f"{text} echo: bytes a second, × bare picows echo",
            f"{PLAIN.name}, {text}",
            f"{PICOWS.name}, {text}",
            ("bytes_per_second",),
            1.0,
        )
        for text in sizes
    ], rounds


def measure_reset_in_process(here: Arena, settings: Settings) -> Measured:
    command = on_core(machine.SERVER_CORE, python("reset_in_process", "5000"))
    rounds = alternate(settings.rounds, {"reset": lambda: one_shot(command, 1)})
    what = "reset read → CancelledError in the handler"
    return [
        Target(f"{what}: iterations of the loop, most", max(values(rounds, "reset", "iterations")), 1, False),
        *(
            Target(f"{what}: {share}, µs", statistics.median(figures), bound, False, spread(figures))
            for share, bound in (("p50", 15.0), ("p99", 50.0))
            if (figures := values(rounds, "reset", "us", share))
        ),
    ], rounds


def measure_reset(here: Arena, settings: Settings) -> Measured:
    """Measure against one round trip of the same connection, under the same load, in the same round."""
    loads = {"idle": 0, f"32 busy connections × {IN_FLIGHT}": 32}
    here.port(PLAIN)
    measured = {
        text: partial(here.load, "reset", PLAIN, busy=busy, in_flight=IN_FLIGHT, seconds=settings.seconds)
        for text, busy in loads.items()
    }
    rounds = alternate(settings.rounds, measured)
    found = []
    for text in loads:
        resets, trips = (values(rounds, text, name, "p50") for name in ("reset_us", "round_trip_us"))
        ratios = [a / b for a, b in zip(resets, trips, strict=True)]
        name = f"reset → abort seen by the peer, {text}: p50, of a round trip's"
        found.append(Target(name, statistics.median(ratios), 1.10, False, spread(ratios)))
    return found, rounds


def measure_mass_abort(here: Arena, settings: Settings) -> Measured:
    port = here.port(RAISED)
    rounds = alternate(settings.rounds, {"cut": lambda: mass_abort(port, settings.calls)})
    seconds, waits = values(rounds, "cut", "seconds"), values(rounds, "cut", "longest_wait")
    what = f"{settings.calls:,} calls in flight, connection cut"
    return [
        Target(f"{what}: s until all are aborted", statistics.median(seconds), 1.5, False, spread(seconds)),
        Target(
            f"{what}: longest wait of another connection, ms",
            statistics.median(waits) * 1e3,
            50,
            False,
            spread(waits),
        ),
    ], rounds


def measure_memory(here: Arena, settings: Settings) -> Measured:
    count = settings.connections
    measured: Mapping[str, Callable[[], Result]] = {
        "idle": lambda: idle_bytes(PLAIN, count),
        "idle transport": lambda: idle_bytes(TRANSPORT, count),
        "call": lambda: call_bytes(PLAIN, settings.calls // 1000, 1000),
        "task": lambda: task_bytes(settings.calls),
    }
    rounds = alternate(min(settings.rounds, 3), measured)
    median = {name: statistics.median(values(rounds, name, "bytes")) for name in rounds}
    return [
        Target(
            "idle connection: bytes above uvloop's own",
            median["idle"] - median["idle transport"],
            2048,
            False,
        ),
        Target(
            "suspended call: bytes above its task and coroutine", median["call"] - median["task"], 300, False
        ),
    ], rounds


def measure_fan_out(here: Arena, settings: Settings) -> Measured:
    connections = 1000
    # The limit appears only in the JSON; it shows how much of the time is unavoidable.
    measured = {
        each.name: partial(here.broadcasts, each, here.keep(here.fan_out(each, connections)), 10)
        for each in (FAN_OUT_LIMIT, PLAIN, WEBSOCKETS)
    }
    rounds = alternate(settings.rounds, measured)
    what = f"fan-out of 100 B to {connections:,} connections: × websockets.broadcast"
    own = f"{what}, in the server's own processor time"
    return [
        compared(rounds, what, WEBSOCKETS.name, PLAIN.name, ("seconds",), 2.5),
        compared(rounds, own, WEBSOCKETS.name, PLAIN.name, ("server_seconds",), 2.5),
    ], rounds


def measure_client(here: Arena, settings: Settings) -> Measured:
    port = here.port(PLAIN)
    measured = {
        kind: partial(client_calls, kind, port, settings.seconds, 256) for kind in ("sockrpc", "websockets")
    }
    rounds = alternate(settings.rounds, measured)
    what = "Python client, one connection, 256 in flight: × one by hand on websockets"
    return [compared(rounds, what, "sockrpc", "websockets", RATE, 5)], rounds


MEASUREMENTS: dict[str, Callable[[Arena, Settings], Measured]] = {
    "load": measure_load,
    "small": measure_small,
    "one": measure_one_in_flight,
    "large": measure_large,
    "reset-in-process": measure_reset_in_process,
    "reset": measure_reset,
    "mass-abort": measure_mass_abort,
    "memory": measure_memory,
    "fan-out": measure_fan_out,
    "client": measure_client,
    **MEASUREMENTS_V1,
}


def busiest(raw: Mapping[str, Rounds]) -> dict[str, float]:
    """Return the highest utilisation of the load generator in each measurement."""
    found: dict[str, float] = {}
    for name, rounds in raw.items():
        shares = [
            r["load_cpu_share"] for results in rounds.values() for r in results if "load_cpu_share" in r
        ]
        if shares and name != "load":
            found[name] = max(shares)
    return found


def table(targets: list[Target]) -> str:
    return markdown(["target", "measured", "bound", "met", "spread"], [target.row() for target in targets])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.targets", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds for each contender in each round")
    parser.add_argument(
        "--connections", type=int, default=5000, help="idle connections, whose memory is measured"
    )
    parser.add_argument(
        "--calls", type=int, default=100_000, help="suspended calls, whose memory is measured"
    )
    parser.add_argument("--only", default="", help=f"a regular expression; of {', '.join(MEASUREMENTS)}")
    parser.add_argument("--json", type=Path, default=Path("build/bench/targets.json"))
    options = parser.parse_args()
    machine.refuse_unfit_build()
    settings = Settings(options.rounds, options.seconds, options.connections, options.calls)
    targets: list[Target] = []
    raw: dict[str, Rounds] = {}
    described = machine.describe()
    for name, measure in MEASUREMENTS.items():
        if not re.search(options.only, name):
            continue
        print(f"{name}: {(measure.__doc__ or '').strip()}", flush=True)
        with arena() as here:
            found, raw[name] = measure(here, settings)
        targets += found
    options.json.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "machine": described,
        "settings": asdict(settings),
        "targets": [{**asdict(target), "is_met": target.is_met} for target in targets],
        "rounds": raw,
    }
    options.json.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\n{table(targets)}\n")
    for name, share in busiest(raw).items():
        if share > 0.9:
            print(f"{name}: the load generator used {share:.0%} of its core: what it measured may be itself")
    print(f"CPython {described['python']}, {described['processor']}; the raw rounds are in {options.json}")
    sys.exit(0 if targets and all(target.is_met for target in targets) else 1)


if __name__ == "__main__":
    main()
