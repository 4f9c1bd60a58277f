"""A round of torture: a server, some peers at once, its stop; and then nothing may be left of any of them.

A round is made by its seed alone: the loop, the limits, the form, the peers and all that they do.
"""

from __future__ import annotations

import asyncio
import collections
import gc
import logging
import os
import random
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import sockrpc
from sockrpc._debug import live
from sockrpc.limits import ServerLimits
from sockrpc.peer.table import live_entries
from sockrpc.websocket.loop import live_contexts
from tests.kit.inside import is_idle, leftovers
from tests.kit.loops import LOOPS, new_event_loop
from tests.kit.tls import client_context, server_context
from tests.torture.acts import World
from tests.torture.apps import make_app, make_form, process_request
from tests.torture.scenes import SCENES, Place, witness

PATIENCE = 4.0
# A stop that has nothing to wait for; the graces of such a round are far longer.
AT_ONCE = 1.0
WAITING_BYTES = (
    "max_held_bytes" if "max_held_bytes" in ServerLimits.__optional_keys__ else "max_waiting_bytes"
)


def chance_limits(chance: random.Random) -> dict[str, Any]:
    """Limits, most of them tiny."""
    high = chance.choice((1, 100, 5_000, 100_000, 1 << 20))
    return {
        "max_in_flight": chance.choice((1, 2, 3, 4, 100)),
        "max_waiting_calls": chance.choice((1, 2, 5, 50, 1000)),
        WAITING_BYTES: chance.choice((100, 40_000, 100_000, 1 << 24)),
        "max_notifications": chance.choice((1, 2, 5, 100)),
        "max_message_bytes": chance.choice((35_000, 100_000, 1 << 24)),
        "output_high_bytes": high,
        "output_low_bytes": chance.choice((0, high // 2, high)),
        "output_max_bytes": chance.choice((high, high + 60_000, 1 << 24)),
        "max_connections": chance.choice((2, 3, 8, 100)),
        "max_threads": chance.choice((1, 2, 4)),
        "stop_grace": chance.choice((0.0, 0.001, 0.02, 0.1)),
        "abort_grace": chance.choice((0.0, 0.001, 0.02, 0.1)),
        "close_timeout": chance.choice((0.05, 0.2, 1.0)),
        "handshake_timeout": chance.choice((0.05, 1.0, 10.0)),
        "stall_timeout": chance.choice((None, 2.0)),
        "ping_interval": chance.choice((None, 0.05, 1.0)),
        "ping_timeout": chance.choice((None, 3.0)),
        "blocked_warning": chance.choice((None, None, 0.02)),
    }


class Round:
    """One round; `connections` and what its world has seen are filled in by `run`."""

    def __init__(self, seed: str, loop: str | None = None, *, tame: bool = False) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.loop_kind = self.chance.choice(LOOPS)
        self.loop_kind = loop or self.loop_kind
        self.debug = self.chance.random() < 0.1
        self.eager = self.chance.random() < 0.15 and sys.version_info >= (3, 12)
        self.form = self.chance.random() < 0.3
        self.tls = self.chance.random() < 0.3
        # In its debug mode asyncio looks into a transport of TLS that may be closed by then, and breaks.
        self.debug = self.debug and not self.tls
        self.hooks = self.chance.random() < 0.5
        self.stop = self.chance.choice(("idle", "idle", "busy", "hurry", "restart"))
        self.limits = chance_limits(self.chance)
        if self.stop == "idle":
            self.limits |= {"stop_grace": 20.0, "abort_grace": 20.0}
        if tame:
            self.limits["output_high_bytes"] = max(self.limits["output_high_bytes"], 2)
            self.limits["output_max_bytes"] = max(self.limits["output_max_bytes"], 2)
        self.peers = self.chance.randrange(3, 14)
        self.connections = 0
        self.world = World(tame=tame)
        self.logged: collections.Counter[str] = collections.Counter()

    def __str__(self) -> str:
        words = [self.loop_kind, "form" if self.form else "app", "tls" if self.tls else "plain", self.stop]
        words += ["hooks"] * self.hooks + ["debug"] * self.debug + ["eager"] * self.eager
        limits = " ".join(f"{name}={value}" for name, value in self.limits.items())
        return f"round {self.seed}: {' '.join(words)}, {self.peers} peers, {limits}"

    def run(self) -> collections.Counter[str]:
        """Run it; the faults that were seen, with how often."""
        world = self.world
        files, before = open_files(), objects()
        handler = Recorder(world)
        logging.getLogger("sockrpc").addHandler(handler)
        logging.getLogger("asyncio").addHandler(handler)
        unraisable, sys.unraisablehook = sys.unraisablehook, self.unraisable
        excepthook, threading.excepthook = (
            threading.excepthook,
            lambda args: world.fault("a thread died", args),
        )
        loop = new_event_loop(self.loop_kind)
        loop.set_exception_handler(self.unexpected)
        loop.set_debug(self.debug)
        if self.eager:
            loop.set_task_factory(eagerly)
        try:
            asyncio.set_event_loop(loop)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                loop.run_until_complete(self.main())
                contexts = live_contexts()
                timers = [each for each in getattr(loop, "_scheduled", ()) if not each.cancelled()]
                loop.run_until_complete(loop.shutdown_asyncgens())
                gc.collect()
        finally:
            asyncio.set_event_loop(None)
            loop.close()
            logging.getLogger("sockrpc").removeHandler(handler)
            logging.getLogger("asyncio").removeHandler(handler)
        gc.collect()
        sys.unraisablehook, threading.excepthook = unraisable, excepthook
        self.none("a context of the loop", contexts)
        self.none("a timer of the loop", timers)
        self.none("an entry of a table", live_entries())
        self.none("a compiled object", live())
        self.none("a Python object of ours", objects() - before)
        self.none("a descriptor", sorted(open_files() - files))
        return world.faults

    def none(self, what: str, left: object) -> None:
        if left:
            self.world.fault(f"{what} was left behind", left)

    def unexpected(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        message = str(context.get("message")).partition(" <")[0].partition(" Traceback")[0]
        self.world.fault(f"the loop's handler heard: {message[:80]} {type(error).__name__}", context)

    def unraisable(self, args: Any) -> None:
        self.world.fault(f"unraisable: {type(args.exc_value).__name__}: {str(args.exc_value)[:60]}", args)

    async def main(self) -> None:
        world = self.world
        place = Place(
            tls=client_context() if self.tls else None,
            server_compresses=self.chance.random() < 0.5,
            form=self.form,
        )
        await self.start(place)
        leave = asyncio.Event()
        watching = asyncio.create_task(witness(world, place, leave))
        peers = [asyncio.create_task(self.peer(place, n)) for n in range(self.peers)]
        stopping = None
        if self.stop in ("hurry", "busy", "restart"):
            stopping = asyncio.create_task(self.stop_amid(place))
        _, late = await asyncio.wait(peers, timeout=60)
        for task in late:
            world.fault("a peer hangs", task)
            task.cancel()
        for task in peers:
            if task.done() and not task.cancelled() and task.exception() is not None:
                world.fault(f"a peer broke: {task.exception()!r}", task)
        leave.set()
        await asyncio.wait([watching])
        if watching.exception() is not None:
            world.fault(f"the witness broke: {watching.exception()!r}")
        if stopping is not None:
            await stopping
        if self.stop == "idle":
            await self.become_idle(world.servers[-1])
        await self.end(world.servers[-1])
        await self.until(lambda: len(asyncio.all_tasks()) <= 1)
        self.none(
            "a task", [repr(each)[:300] for each in asyncio.all_tasks() if each is not asyncio.current_task()]
        )
        await self.until(lambda: not worker_threads())
        self.none("a thread", worker_threads())
        # Transports that close have their turns.
        await self.until(lambda: live_contexts() == 0)
        while world.servers:
            self.count(world.servers.pop())

    async def start(self, place: Place) -> None:
        world = self.world
        app: Any = make_form(world) if self.form else make_app(world, hooks=self.hooks)
        options = dict(self.limits)
        if self.chance.random() < 0.6:
            options["process_request"] = process_request(world)
        server = await sockrpc.serve(
            app,
            "127.0.0.1",
            0,
            ssl=server_context() if self.tls else None,
            compression="deflate" if place.server_compresses else None,
            **options,
        )
        world.servers.append(server)
        place.port = server.sockets[0].getsockname()[1]
        world.stopping = False

    async def peer(self, place: Place, n: int) -> None:
        chance = random.Random(f"{self.seed}/{n}")
        for again in range(chance.choice((1, 1, 2, 4))):
            await asyncio.sleep(chance.choice((0, 0, 0.005, 0.05)))
            await chance.choice(SCENES)(self.world, place, chance, f"{n:x}{again}")

    async def stop_amid(self, place: Place) -> None:
        await asyncio.sleep(self.chance.choice((0.0, 0.02, 0.1, 0.3)))
        self.world.stopping = True
        self.world.stops += 1
        if self.stop == "hurry":
            self.world.servers[-1].hurry()
        else:
            self.world.servers[-1].close()
        if self.stop == "restart":
            before = self.world.servers[-1]
            await self.start(place)
            self.world.stopping = True  # of those that are still at the old one
            await self.end(before)
            self.world.stopping = False

    async def become_idle(self, server: sockrpc.Server) -> None:
        await self.until(lambda: is_idle(server))
        if not is_idle(server):
            self.world.fault("a server whose peers have all gone is not idle", leftovers(server))
            server.hurry()

    async def end(self, server: sockrpc.Server) -> None:
        begun = time.monotonic()
        server.close()
        try:
            async with asyncio.timeout(60):
                await server.wait_closed()
        except TimeoutError:
            self.world.fault("a stop does not end")
        took = time.monotonic() - begun
        if self.stop == "idle" and took > AT_ONCE:
            self.world.fault("a stop with nothing to do takes its time", f"{took:.2f} s")

    async def until(self, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE
        while not condition() and time.monotonic() < until:
            await asyncio.sleep(0.001)

    def count(self, server: sockrpc.Server) -> None:
        """What the statistics of a server that has stopped say of it."""
        counts = server.statistics()
        self.connections += counts.connections_accepted
        now = {
            name: getattr(counts, name)
            for name in (
                "connections",
                "calls_in_flight",
                "calls_running",
                "procedures_waiting",
                "notifications_running",
            )
        }
        self.none("in the statistics something", {name: n for name, n in now.items() if n})
        methods = {**counts.methods, "(others)": counts.unregistered}
        self.none(
            "in flight by its counters a call",
            {name: each.in_flight for name, each in methods.items() if each.in_flight},
        )
        if not is_idle(server):
            self.world.fault("after its stop a server is not idle", leftovers(server))


def eagerly(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    """As asyncio.eager_task_factory, which not every uvloop calls with what it takes."""
    return asyncio.Task(coroutine, loop=loop, **(options | {"eager_start": loop.is_running()}))


class Recorder(logging.Handler):
    """Every record is made, as its making may fail; the loop's own complaints are faults."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if (
            record.name == "asyncio"
            and record.levelno >= logging.WARNING
            and not text.startswith("Executing ")
        ):
            self.world.fault(f"asyncio logged: {text[:60]}", text)


def objects() -> collections.Counter[str]:
    """Of the garbage collector's objects those that are ours."""
    return collections.Counter(type(each).__qualname__ for each in gc.get_objects() if is_ours(type(each)))


def is_ours(kind: type) -> bool:
    return str(kind.__module__).startswith("sockrpc")


def worker_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("sockrpc")]


def open_files() -> set[str]:
    return set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
