"""Servers of a comparison, each a process on the servers' core, and rounds in which they alternate."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from bench.loading import PATIENCE, Conversation, FanOut, Held, load, on_core
from bench.machine import LOAD_CORE, SERVER_CORE
from bench.memory import private_bytes, processor_seconds
from bench.wire import WINDOW_BYTES, request_bytes

ROOT = Path(__file__).resolve().parent.parent

T = TypeVar("T")

Result = dict[str, Any]
Rounds = dict[str, list[Result]]


@dataclass(frozen=True)
class Contender:
    """A server to measure, and the protocol that its clients use."""

    name: str
    module: str
    dialect: str = "rpc"
    method: str = "plain"
    path: str = "/"
    arguments: Mapping[str, int] = field(default_factory=dict)

    @property
    def process(self) -> tuple[object, ...]:
        """Contenders with an equal value share a server."""
        return (self.module, *sorted(self.arguments.items()))


def limit(payload: int = 32) -> Contender:
    """Return the uvloop protocol that does not parse; all requests must have the length that it counts."""
    request = request_bytes("plain", payload)
    return Contender("limit", "limit", "ready", arguments={"request": request, "payload": payload})


def python(module: str, *words: str) -> list[str]:
    return [sys.executable, "-m", f"bench.{module}", *words]


class Server:
    """A server in a process of its own, ready for connections."""

    def __init__(self, contender: Contender) -> None:
        words = [] if SERVER_CORE is None else ["--core", str(SERVER_CORE)]
        for name, value in contender.arguments.items():
            words += [f"--{name}", str(value)]
        self.process = subprocess.Popen(
            python(f"peers.{contender.module}", *words), cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server {contender.module} did not start")
        self.port = int(line)

    def private_bytes(self) -> int:
        return private_bytes(self.process.pid)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.communicate(timeout=PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()


class Arena:
    """The servers of a comparison, each started when it is first needed and kept until the end."""

    def __init__(self) -> None:
        self.servers: dict[tuple[object, ...], Server] = {}
        self.kept = contextlib.ExitStack()

    def keep(self, context: contextlib.AbstractContextManager[T]) -> T:
        """Enter a context that lasts as long as the servers."""
        return self.kept.enter_context(context)

    def port(self, contender: Contender) -> int:
        if contender.process not in self.servers:
            self.servers[contender.process] = Server(contender)
        return self.servers[contender.process].port

    def calls(self, contender: Contender, **options: object) -> Result:
        """Run the load generator's calls against a contender."""
        return self.load("calls", contender, **options)

    def fan_out(self, contender: Contender, connections: int) -> FanOut:
        """Open connections to a contender that wait for broadcasts."""
        path = contender.path if contender.dialect == "socketio" else "/fanout"
        return FanOut(self.port(contender), connections, contender.dialect, path)

    def broadcasts(self, contender: Contender, receivers: FanOut, count: int) -> Result:
        """Measure `count` broadcasts: the time of one, and the server's own time for each receiver."""
        server = self.servers[contender.process]
        before = processor_seconds(server.process.pid)
        seconds = [receivers.broadcast() for _ in range(count)]
        spent = processor_seconds(server.process.pid) - before
        return {
            "seconds": statistics.median(seconds),
            "server_seconds": spent / count / receivers.connections,
        }

    def load(self, mode: str, contender: Contender, **options: object) -> Result:
        port = self.port(contender)
        known = {"dialect": contender.dialect, "method": contender.method, "path": contender.path}
        return load(mode, port, **known, **options)

    def stop(self) -> None:
        # Close connections before their servers; every server is stopped even if something fails.
        with contextlib.ExitStack() as stack:
            for server in self.servers.values():
                stack.callback(server.stop)
            stack.push(self.kept)


@contextlib.contextmanager
def arena() -> Iterator[Arena]:
    servers = Arena()
    try:
        yield servers
    finally:
        servers.stop()


def alternate(
    rounds: int, contenders: Mapping[str, Callable[[], Result]], say: Callable[[str], None] = print
) -> Rounds:
    """Measure each contender once per round, in an order that rotates by one from round to round."""
    results: Rounds = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            results[name].append(contenders[name]())
        say(f"  round {number + 1} of {rounds}")
    return results


@contextlib.contextmanager
def alone(contender: Contender) -> Iterator[Server]:
    """Start a fresh server, whose memory has not been used before."""
    server = Server(contender)
    try:
        yield server
    finally:
        server.stop()


def idle_bytes(contender: Contender, connections: int) -> Result:
    """Return the additional memory of the server for each open and idle connection."""
    with alone(contender) as server:
        # The first connection allocates everything that all of them share.
        how = (contender.dialect, contender.path)
        with Held(server.port, 1, 0, *how):
            before = server.private_bytes()
            with Held(server.port, connections, 0, *how):
                used = server.private_bytes() - before
    return {"bytes": used / connections, "count": connections}


def call_bytes(contender: Contender, connections: int, calls: int) -> Result:
    """Return the additional memory of the server for each suspended call."""
    how = (contender.dialect, contender.path)
    with alone(contender) as server, Held(server.port, 1, 1, *how):
        before = server.private_bytes()
        with Held(server.port, connections, calls, *how):
            used = server.private_bytes() - before
    return {"bytes": used / (connections * calls), "count": connections * calls}


def stream_bytes(contender: Contender, connections: int, streams: int) -> Result:
    """Return the additional memory of the server for each stream that waits for credit."""
    options: dict[str, Any] = {
        "dialect": contender.dialect,
        "method": contender.method,
        "size": 0,
        "window": WINDOW_BYTES,
    }
    with alone(contender) as server, Held(server.port, 1, 1, **options, streams=True):
        before = server.private_bytes()
        with Held(server.port, connections, streams, **options, streams=True):
            used = server.private_bytes() - before
    return {"bytes": used / (connections * streams), "count": connections * streams}


def task_bytes(count: int) -> Result:
    """Return the additional memory of a process of plain asyncio for each suspended task."""
    # Use a fresh process: memory freed before stays resident, and its reuse would not be counted.
    with Tasks() as tasks:
        return tasks.bytes(count)


def stream_task_bytes(count: int) -> Result:
    """Return the same of plain asyncio for each task that waits within an async generator."""
    with Tasks() as tasks:
        return tasks.bytes(count, "streams")


def client_does(what: str, port: int, seconds: float, in_flight: int) -> Result:
    """Run a Python client of `sockrpc.v1` in a process of its own, on the load's core."""
    command = on_core(LOAD_CORE, python("peers.client_v1", what, str(port), str(seconds), str(in_flight)))
    return one_shot(command, seconds)


def client_calls(kind: str, port: int, seconds: float, in_flight: int) -> Result:
    """Run a Python client in a process of its own, on the load's core."""
    command = on_core(LOAD_CORE, python("peers.client", kind, str(port), str(seconds), str(in_flight)))
    return one_shot(command, seconds)


def one_shot(command: list[str], seconds: float) -> Result:
    """Run a program that prints JSON."""
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=PATIENCE + seconds, check=True
    )
    result: Result = json.loads(done.stdout)
    return result


class Tasks(Conversation):
    """Plain asyncio on the servers' core."""

    def __init__(self) -> None:
        words = [] if SERVER_CORE is None else ["--core", str(SERVER_CORE)]
        super().__init__(python("peers.tasks", *words), cwd=ROOT)

    def rate(self, seconds: float, in_flight: int) -> Result:
        return {"answers_per_second": float(self.ask(f"rate {seconds} {in_flight}"))}

    def bytes(self, count: int, kind: str = "memory") -> Result:
        return {"bytes": float(self.ask(f"{kind} {count}")), "count": count}
