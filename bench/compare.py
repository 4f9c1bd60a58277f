"""A comparison of sockrpc with its alternatives in one run: `python -m bench.compare`, or `make bench-peers`.

bench/README.md describes the servers and the columns.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench import machine
from bench.arena import (
    Arena,
    Contender,
    Result,
    Rounds,
    alternate,
    arena,
    call_bytes,
    client_calls,
    idle_bytes,
    limit,
)
from bench.grpc_load import Grpc
from bench.picture import Bar, Chart, write
from bench.tables import number, table_of

SOCKETIO_PATH = "/socket.io/?EIO=4&transport=websocket"
OURS = [
    Contender("sockrpc, plain function", "sockrpc_server"),
    Contender("sockrpc, coroutine", "sockrpc_server", method="coroutine"),
    Contender("sockrpc, coroutine that suspends", "sockrpc_server", method="suspending"),
]
LIMIT = limit()
PICOWS = Contender("picows, bare echo", "picows_echo", "echo")
AIOHTTP = Contender("aiohttp, bare echo", "aiohttp_echo", "echo")
WEBSOCKETS = Contender("websockets, bare echo", "websockets_echo", "echo")
FASTAPI = Contender("FastAPI, bare echo", "fastapi_echo", "echo")
BY_HAND = Contender("websockets, dict of tasks", "websockets_rpc", method="coroutine")
SOCKETIO = Contender("python-socketio", "socketio_server", "socketio", path=SOCKETIO_PATH)
GRPC = Contender("grpc.aio", "grpc_server", "grpc")

FAN_OUT_LIMIT = Contender("limit", "fanout_limit", "echo")
# This is no server; it shows the cost of a bare connection.
TRANSPORT = "uvloop transport alone"
EVERYBODY = [LIMIT, *OURS, PICOWS, AIOHTTP, WEBSOCKETS, FASTAPI, BY_HAND, SOCKETIO, GRPC]
# Numbers of connections, and of calls in flight on each, for payloads of 32 bytes.
SIZES = [(1, 1), (1, 256), (64, 1), (64, 16)]
LARGE = {"64 KiB": (64 * 1024, 16, 4), "1 MiB": (1024 * 1024, 4, 2)}
FAN_OUT = 1000
BUSY = 32
# Titles in the smaller picture.
HEADLINES = (
    *("32 B, 1 × 1", "32 B, 64 × 16", "1 MiB", "reset → abort seen, idle", "fan-out", "memory of an idle"),
)


@dataclass(frozen=True)
class Measure:
    """A column, or several of the same rounds: name, unit, and the place of the figure in a result."""

    name: str
    unit: str
    path: tuple[str, ...]
    scale: float = 1.0
    less_is_better: bool = True


@dataclass(frozen=True)
class Settings:
    rounds: int
    seconds: float
    connections: int
    calls: int


@dataclass
class Bout:
    """Measurements that share their rounds, and the figures read from them."""

    title: str
    measures: list[Measure]
    contenders: Callable[[Arena, Settings], Mapping[str, Callable[[], Result]]]
    most_rounds: int = 1000


def throughput(connections: int, in_flight: int) -> Bout:
    def contenders(here: Arena, settings: Settings) -> Mapping[str, Callable[[], Result]]:
        options = {"connections": connections, "in_flight": in_flight, "seconds": settings.seconds}
        return {each.name: calls(here, each, options) for each in EVERYBODY if is_there(each)}

    trip = "round_trip_us"
    return Bout(
        f"32 B, {connections} × {in_flight}",
        [
            Measure("calls a second", "1/s", ("answers_per_second",), less_is_better=False),
            Measure("p50", "µs", (trip, "p50")),
            Measure("p90", "µs", (trip, "p90")),
            Measure("p99", "µs", (trip, "p99")),
            Measure("p99.9", "µs", (trip, "p99.9")),
        ],
        contenders,
    )


def calls(here: Arena, contender: Contender, options: dict[str, Any]) -> Callable[[], Result]:
    port = here.port(contender)
    if contender is GRPC:
        Grpc(port).check()
        return partial(Grpc(port).calls, **options)
    return partial(here.calls, contender, **options)


def is_there(contender: Contender) -> bool:
    return contender is not GRPC or shutil.which("h2load") is not None


def large(text: str) -> Bout:
    size, connections, in_flight = LARGE[text]

    def contenders(here: Arena, settings: Settings) -> Mapping[str, Callable[[], Result]]:
        options = {
            "size": size,
            "connections": connections,
            "in_flight": in_flight,
            "seconds": settings.seconds,
        }
        chosen = [OURS[0], PICOWS, AIOHTTP, WEBSOCKETS, FASTAPI, BY_HAND]
        return {each.name: calls(here, each, options) for each in chosen}

    rate = Measure("MB a second", "MB/s", ("bytes_per_second",), 1e-6, less_is_better=False)
    return Bout(f"{text}, {connections} × {in_flight}", [rate], contenders)


def resets(busy: int) -> Bout:
    def contenders(here: Arena, settings: Settings) -> Mapping[str, Callable[[], Result]]:
        found: dict[str, Callable[[], Result]] = {}
        for each in (OURS[0], BY_HAND):
            here.port(each)
            options = {"busy": busy, "in_flight": 16, "seconds": settings.seconds}
            found[each.name] = partial(here.load, "reset", each, **options)
        if not busy:
            found[GRPC.name] = partial(Grpc(here.port(GRPC)).resets, settings.seconds)
        return found

    return Bout(
        f"reset → abort seen, {f'{busy} busy connections × 16' if busy else 'idle'}",
        [
            Measure("p50", "µs", ("reset_us", "p50")),
            Measure("p99", "µs", ("reset_us", "p99")),
            Measure("round trip p50", "µs", ("round_trip_us", "p50")),
        ],
        contenders,
    )


def clients(here: Arena, settings: Settings) -> Mapping[str, Callable[[], Result]]:
    port = here.port(OURS[0])
    kinds = {"sockrpc.connect": "sockrpc", "websockets, dict of futures": "websockets"}
    return {name: partial(client_calls, kind, port, settings.seconds, 256) for name, kind in kinds.items()}


def idle_memory(here: Arena, settings: Settings) -> Mapping[str, Callable[[], Result]]:
    chosen = [OURS[0], PICOWS, AIOHTTP, WEBSOCKETS, FASTAPI, BY_HAND, SOCKETIO]
    found = {each.name: partial(idle_bytes, each, settings.connections) for each in chosen}
    found[TRANSPORT] = partial(idle_bytes, Contender("", "transport", "ready"), settings.connections)
    found[GRPC.name] = partial(Grpc.idle_bytes, GRPC, min(settings.connections, 200))
    return found


def call_memory(here: Arena, settings: Settings) -> Mapping[str, Callable[[], Result]]:
    per = 500
    found = {
        each.name: partial(call_bytes, each, settings.calls // per, per)
        for each in (OURS[0], BY_HAND, SOCKETIO)
    }
    found[GRPC.name] = partial(Grpc.call_bytes, GRPC, 10, min(settings.calls // 10, 1000))
    return found


def fan_out(here: Arena, settings: Settings) -> Mapping[str, Callable[[], Result]]:
    # Connections stay open from the first round on; the arena closes them with its servers.
    found: dict[str, Callable[[], Result]] = {}
    for each in (FAN_OUT_LIMIT, OURS[0], PICOWS, AIOHTTP, WEBSOCKETS, FASTAPI, SOCKETIO):
        waiting = here.keep(here.fan_out(each, FAN_OUT))
        found[each.name] = partial(here.broadcasts, each, waiting, 5)
    return found


def connect_rate(here: Arena, settings: Settings) -> Mapping[str, Callable[[], Result]]:
    found: dict[str, Callable[[], Result]] = {}
    for each in (LIMIT, OURS[0], PICOWS, AIOHTTP, WEBSOCKETS, FASTAPI, SOCKETIO):
        here.port(each)
        options = {"connections": 50, "count": 1000}
        found[each.name] = partial(here.load, "connect", each, **options)
    return found


def bouts() -> list[Bout]:
    in_bytes = [Measure("bytes", "B", ("bytes",))]
    return [
        *(throughput(*size) for size in SIZES),
        *(large(text) for text in LARGE),
        resets(0),
        resets(BUSY),
        Bout(
            f"fan-out of 100 B to {FAN_OUT:,}",
            [
                Measure("until all have it", "ms", ("seconds",), 1e3),
                Measure("server's time for each", "µs", ("server_seconds",), 1e6),
            ],
            fan_out,
        ),
        Bout(
            "opening handshakes",
            [Measure("connections a second", "1/s", ("per_second",), less_is_better=False)],
            connect_rate,
        ),
        Bout(
            "Python client, one connection, 256 in flight",
            [Measure("calls a second", "1/s", ("answers_per_second",), less_is_better=False)],
            clients,
        ),
        Bout("memory of an idle connection", in_bytes, idle_memory, 3),
        Bout("memory of a call in flight", in_bytes, call_memory, 3),
    ]


def is_ours(name: str) -> bool:
    return name.startswith("sockrpc")


def median_of(results: list[Result], measure: Measure) -> float:
    figures = []
    for result in results:
        value: Any = result
        for key in measure.path:
            value = value[key]
        figures.append(float(value) * measure.scale)
    return statistics.median(figures)


def summarize(bout: Bout, rounds: Rounds) -> dict[str, dict[str, float]]:
    """Return medians by contender, and the ratio of each first figure to the first of ours."""
    found = {
        name: {f"{m.name}, {m.unit}": median_of(results, m) for m in bout.measures}
        for name, results in rounds.items()
    }
    ours = next(name for name in found if is_ours(name))
    first = bout.measures[0]
    column = f"{first.name}, {first.unit}"
    for row in found.values():
        row["of sockrpc's"] = row[column] / found[ours][column]
    return found


def chart(bout: Bout, summary: Mapping[str, Mapping[str, float]]) -> Chart:
    first = bout.measures[0]
    column = f"{first.name}, {first.unit}"
    limits = (LIMIT.name, TRANSPORT)
    kinds = {name: "limit" if name in limits else "ours" if is_ours(name) else "" for name in summary}
    bars = [Bar(name, row[column], kinds[name]) for name, row in summary.items()]
    bars.sort(key=lambda bar: bar.value, reverse=not first.less_is_better)
    return Chart(f"{bout.title}: {first.name}", first.unit, bars, first.less_is_better)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds for each server in each round")
    parser.add_argument(
        "--connections", type=int, default=1000, help="idle connections, whose memory is measured"
    )
    parser.add_argument("--calls", type=int, default=20_000, help="suspended calls, whose memory is measured")
    parser.add_argument("--only", default="", help="a regular expression for the titles")
    parser.add_argument("--into", type=Path, default=Path("build/bench"), help="the folder of the results")
    options = parser.parse_args()
    machine.refuse_unfit_build()
    settings = Settings(options.rounds, options.seconds, options.connections, options.calls)
    described = machine.describe()
    tables: list[str] = []
    charts: list[Chart] = []
    raw: dict[str, Rounds] = {}
    medians: dict[str, dict[str, dict[str, float]]] = {}
    for bout in bouts():
        if not re.search(options.only, bout.title):
            continue
        print(bout.title, flush=True)
        with arena() as here:
            raw[bout.title] = alternate(
                min(settings.rounds, bout.most_rounds), bout.contenders(here, settings)
            )
        medians[bout.title] = summarize(bout, raw[bout.title])
        tables.append(f"### {bout.title}\n\n{table_of(medians[bout.title], 'server')}")
        charts.append(chart(bout, medians[bout.title]))
    if not tables:
        sys.exit("nothing was measured: --only matches no title")
    note = describe(described, settings)
    options.into.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join([*tables, note.replace("\n", "  \n")]) + "\n"
    (options.into / "peers.md").write_text(text)
    record = {
        "machine": described,
        "settings": vars(options) | {"into": None},
        "medians": medians,
        "rounds": raw,
    }
    (options.into / "peers.json").write_text(json.dumps(record, indent=1) + "\n")
    write(options.into / "peers.svg", charts, note)
    headlines = [each for each in charts if each.title.startswith(HEADLINES)]
    write(options.into / "headlines.svg", headlines or charts[:1], note)
    print(f"\n{text}\n{options.into}/peers.md, peers.json (with all rounds), peers.svg and headlines.svg")


def describe(machine: Mapping[str, Any], settings: Settings) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    pinned = (
        "one core for the server, another for the load"
        if machine["server_core"] is not None
        else "server and load share the cores"
    )
    return (
        f"CPython {machine['python']}, {machine['processor']}, {machine['cores']} cores; {pinned}; "
        f"load average {number(machine['load_average'][0])}\n"
        f"medians of {settings.rounds} alternating rounds of {settings.seconds:g} s, {machine['time'][:10]}\n"
        f"{versions}"
    )


if __name__ == "__main__":
    main()
