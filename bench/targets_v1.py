"""The promises about the speed of `sockrpc.v1`: beside v0.1, of streams, of ends, and of calls both ways."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

from bench.arena import Arena, Contender, Result, alternate, client_does, stream_bytes, stream_task_bytes
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
from bench.tables import paired_ratio, spread
from bench.wire import WINDOW_BYTES

KINDS = {"plain function": "plain", "coroutine": "coroutine", "coroutine that suspends": "suspending"}
NOT_FOUND = 5
# A minute, in ms: it is never over.
TIMEOUT = 60_000


def served(method: str, dialect: str = "v1") -> Contender:
    return Contender(f"{method}, {dialect}", "sockrpc_server", dialect, method)


PLAIN, FAILING, ENDLESS = served("plain"), served("failing"), served("endless")
BY_HAND = Contender("by hand on websockets", "websockets_rpc", "rpc", "endless")


def measure_calls(here: Arena, settings: Settings) -> Measured:
    """Measure 32 bytes, 64 connections × 16 calls in flight, in both protocols, with a time-out too."""
    size = {"connections": CONNECTIONS, "in_flight": IN_FLIGHT}
    measured = {}
    for method in KINDS.values():
        for dialect in ("rpc", "v1"):
            each = served(method, dialect)
            measured[each.name] = calls(here, each, settings, **size)
        measured[f"{method}, time-out"] = calls(here, served(method), settings, timeout=TIMEOUT, **size)
    measured[FAILING.name] = calls(here, FAILING, settings, code=NOT_FOUND, **size)
    rounds = alternate(settings.rounds, measured)
    rate = partial(compared, rounds, path=RATE)
    found = []
    for kind, method in KINDS.items():
        v1 = served(method).name
        found += [
            rate(f"32 B in v1, {kind}: of v0.1", v1, served(method, "rpc").name, bound=0.97),
            rate("the same with a time-out: of it without", f"{method}, time-out", v1, bound=0.80),
        ]
    error = "RPCError of a plain function: × the time of an answer"
    return [*found, rate(error, PLAIN.name, FAILING.name, bound=3, at_least=False)], rounds


def measure_streams(here: Arena, settings: Settings) -> Measured:
    """Measure one stream on one connection, read by the load generator and by Python; one to the server."""
    upload = served("upload")
    ports = {"sockrpc": here.port(ENDLESS), "websockets": here.port(BY_HAND)}
    measured: dict[str, Callable[[], Result]] = {
        "stream": partial(here.load, "stream", ENDLESS, seconds=settings.seconds),
        "by hand": partial(here.load, "stream", BY_HAND, seconds=settings.seconds),
        "upload": partial(here.load, "upload", upload, seconds=settings.seconds),
    }
    for kind, port in ports.items():
        measured[f"{kind} in Python"] = partial(client_does, f"stream-{kind}", port, settings.seconds, 1)
    rounds = alternate(settings.rounds, measured)
    what = "server stream of 32 B"

    def least(text: str, name: str, bound: float) -> Target:
        rates = values(rounds, name, *RATE)
        return Target(text, statistics.median(rates), bound, True, spread(rates))

    return [
        least(f"{what}: items a second", "stream", 1_000_000),
        compared(rounds, f"{what}: × by hand on websockets", "stream", "by hand", RATE, 20),
        least(f"{what}, read in Python: items a second", "sockrpc in Python", 1_000_000),
        compared(
            rounds,
            f"{what}, read in Python: × by hand on websockets",
            "sockrpc in Python",
            "websockets in Python",
            RATE,
            20,
        ),
        least("client stream of 32 B into `call.items()`: items a second", "upload", 500_000),
    ], rounds


def measure_large_items(here: Arena, settings: Settings) -> Measured:
    """Measure items of 64 KiB, one stream on a connection, beside as many connections with 4 echoes each."""
    size = {"size": WINDOW_BYTES, "connections": 16}
    measured: dict[str, Callable[[], Result]] = {
        "stream": partial(here.load, "stream", ENDLESS, seconds=settings.seconds, **size),
        "echo": calls(here, PLAIN, settings, in_flight=4, **size),
    }
    rounds = alternate(settings.rounds, measured)
    what = "stream of 64 KiB: bytes a second, × the echo's"
    return [compared(rounds, what, "stream", "echo", ("bytes_per_second",), 1.0)], rounds


def measure_reset(here: Arena, settings: Settings) -> Measured:
    """Measure against one round trip of the same connection, in the same round."""
    here.port(PLAIN)
    rounds = alternate(
        max(settings.rounds, FEWEST_ROUNDS),
        {"idle": partial(here.load, "reset", PLAIN, seconds=settings.seconds)},
    )
    resets, trips = (values(rounds, "idle", name, "p50") for name in ("reset_us", "round_trip_us"))
    ratios = [a / b for a, b in zip(resets, trips, strict=True)]
    name = "reset → its end received, idle: p50, of a round trip's"
    return [Target(name, statistics.median(ratios), 1.3, False, spread(ratios))], rounds


def measure_both_ways(here: Arena, settings: Settings) -> Measured:
    """Measure calls of a Python client, and those that the server makes at the same kind of client."""
    port = here.port(PLAIN)
    measured = {
        f"{who}, {width}": partial(client_does, who, port, settings.seconds, width)
        for width in (1, IN_FLIGHT)
        for who in ("calls", "answers")
    }
    rounds = alternate(max(settings.rounds, FEWEST_ROUNDS), measured)
    found = []
    for width in (1, IN_FLIGHT):
        theirs, ours = (values(rounds, f"{who}, {width}", *RATE) for who in ("calls", "answers"))
        name = f"call of the server at a Python client, {width} in flight: × the time of a client's"
        ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
        found.append(Target(name, paired_ratio(theirs, ours), 1.10, False, spread(ratios)))
    return found, rounds


def measure_memory(here: Arena, settings: Settings) -> Measured:
    """Measure streams that have used up their credit, beside tasks that stand in as many generators."""
    count = 10
    measured: dict[str, Callable[[], Result]] = {
        "streams": lambda: stream_bytes(served("stalled"), count, 1000),
        "tasks": lambda: stream_task_bytes(count * 1000),
    }
    rounds = alternate(min(settings.rounds, 3), measured)
    streams, tasks = (statistics.median(values(rounds, name, "bytes")) for name in rounds)
    what = "1,000 streams that wait for credit: bytes of one, its task and generator aside"
    return [Target(what, streams - tasks, 1024, False)], rounds


MEASUREMENTS_V1: dict[str, Callable[[Arena, Settings], Measured]] = {
    "v1-calls": measure_calls,
    "v1-streams": measure_streams,
    "v1-large": measure_large_items,
    "v1-reset": measure_reset,
    "v1-both-ways": measure_both_ways,
    "v1-memory": measure_memory,
}
