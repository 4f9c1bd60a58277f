"""A server whose loop is watched: how long its longest iteration was, in processor time of its thread."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import sockrpc
from tests.hostile.peer import Peer, request, reset

# Nothing waits this long unless it is broken, or beside very many others.
PATIENCE = 40.0
LONG = 300.0


class Probe:
    """Called once in each iteration of the loop.

    Time of the processor that the loop's thread got is what counts: what else the machine does meanwhile
    is not the loop's doing, nor is waiting for the interpreter's lock.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.longest = 0.0
        self.iterations = 0
        self.running = True
        self.last = time.thread_time()
        self.tick()

    def tick(self) -> None:
        now = time.thread_time()
        self.longest = max(self.longest, now - self.last)
        self.iterations += 1
        if self.running:
            self.loop.call_soon(self.tick)
        self.last = time.thread_time()


class Hog:
    """A raw peer whose answers are thrown away by a thread of its own."""

    def __init__(self, peer: Peer, *, reads: bool = True) -> None:
        self.peer = peer
        peer.line.settimeout(None)
        if reads:
            self.read()

    def read(self) -> None:
        threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while self.peer.line.recv(1 << 20):
                pass

    async def send(self, data: bytes) -> None:
        await asyncio.to_thread(self.peer.send, data)

    async def calls(self, name: str, count: int, first: int = 0, payload: bytes = b"") -> None:
        await self._send_each(lambda n: request(n, name, payload), first, count)

    async def resets(self, first: int, count: int) -> None:
        await self._send_each(reset, first, count)

    async def _send_each(self, make: Callable[[int], bytes], first: int, count: int) -> None:
        # Made in the thread too: it takes longer than what is measured.
        await asyncio.to_thread(
            lambda: self.peer.send(b"".join(make(n) for n in range(first, first + count)))
        )

    def cut(self) -> None:
        with contextlib.suppress(OSError):
            self.peer.cut()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.peer.line.shutdown(socket.SHUT_RDWR)
        self.peer.line.close()


class Stage:
    """A server with an App of handlers that do next to nothing, or spin for a millisecond."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.is_open = False
        self.waiters: list[asyncio.Future[None]] = []
        self.thread_gate = threading.Event()
        self.admitted: asyncio.Future[None] = self.loop.create_future()
        self.room = sockrpc.Room()
        self.hogs: list[Hog] = []
        self.probe: Probe | None = None
        self.longest = 0.0
        self.over = False
        self.ran = 0
        self.app = self.make_app()
        self.server: sockrpc.Server

    def make_app(self) -> sockrpc.App:
        app = sockrpc.App()
        app.method("echo")(lambda call: call.payload)
        app.method("work")(lambda call: spin())

        @app.method
        async def wait(call: sockrpc.Call) -> None:
            await self.gate()

        app.method("timed", timeout=0.5)(wait)

        @app.method
        async def fail_later(call: sockrpc.Call) -> None:
            await self.gate()
            raise ValueError

        @app.method
        async def stubborn(call: sockrpc.Call) -> None:
            while not self.over:
                with contextlib.suppress(asyncio.CancelledError):
                    await self.gate()

        @app.method
        async def spawner(call: sockrpc.Call) -> None:
            for _ in range(int(call.text)):
                call.spawn_and_abort_on_reset(self.gate())

        @app.method
        async def undoing(call: sockrpc.Call) -> None:
            call.on_abort(spin)
            await self.gate()

        @app.method(thread=True)
        def thread(call: sockrpc.Call) -> None:
            time.sleep(0.001)

        @app.method(thread=True)
        def blocked_thread(call: sockrpc.Call) -> None:
            self.thread_gate.wait(PATIENCE)

        @app.on
        def note(notification: sockrpc.Notification) -> None:
            self.ran += 1

        @app.on
        def spinning_note(notification: sockrpc.Notification) -> None:
            self.ran += 1
            spin()

        @app.on
        async def waiting_note(notification: sockrpc.Notification) -> None:
            self.ran += 1
            await self.gate()

        @app.on_connect
        async def connected(socket: sockrpc.Socket) -> None:
            self.room.join(socket)
            if socket.request is not None and "late" in socket.request.path:
                await self.admitted

        return app

    async def gate(self) -> None:
        """Wait until it is open. Each has its own future, as others live on when one is cancelled."""
        if not self.is_open:
            self.waiters.append(self.loop.create_future())
            await self.waiters[-1]

    async def hog(self, path: str = "/", *, reads: bool = True) -> Hog:
        port = self.server.sockets[0].getsockname()[1]
        hog = await asyncio.to_thread(connected_hog, port, path, reads)
        self.hogs.append(hog)
        return hog

    def open_gate(self) -> None:
        self.is_open = True
        self.thread_gate.set()
        for each in self.waiters:
            if not each.done():
                each.set_result(None)

    def counts(self) -> Any:
        return self.server.statistics()

    async def until(self, condition: Callable[[Any], bool]) -> None:
        """Wait until it holds of the statistics."""
        async with asyncio.timeout(PATIENCE):
            while not condition(self.counts()):
                await asyncio.sleep(0.001)

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        """What happens in the block is what is measured."""
        gc.collect()
        gc.disable()
        probe = Probe(self.loop)
        try:
            yield
        finally:
            probe.running = False
            # This very iteration may be the longest.
            self.longest = max(probe.longest, time.thread_time() - probe.last)
            gc.enable()


def connected_hog(port: int, path: str, reads: bool) -> Hog:
    peer = Peer(port, path=path)
    return Hog(peer, reads=reads)


def spin() -> None:
    until = time.perf_counter() + 0.001
    while time.perf_counter() < until:
        pass


@contextlib.asynccontextmanager
async def staged(app: Any = None, **limits: Any) -> AsyncIterator[Stage]:
    """A stage whose server stops without a grace at the end; limits are keywords."""
    limits = {
        "stop_grace": LONG,
        "abort_grace": LONG,
        "close_timeout": LONG,
        "blocked_warning": None,
        **limits,
    }
    stage = Stage()
    log = logging.getLogger("sockrpc.server")
    # What it costs to write a log is not the engine's affair; to make its records is.
    log.addHandler(logging.NullHandler())
    propagates, log.propagate = log.propagate, False
    try:
        stage.server = await sockrpc.serve(app or stage.app, "127.0.0.1", 0, **limits)
        try:
            yield stage
        finally:
            stage.over = True
            stage.open_gate()
            for hog in stage.hogs:
                hog.close()
            stage.server.hurry()
            await stage.server.wait_closed()
    finally:
        log.propagate = propagates
