"""A server in memory, in time that stands still, whose handlers tell what happens to their calls."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import sockrpc
from sockrpc.peer.tally import ENDINGS
from sockrpc.testing.memory import Pair
from tests.kit.pair import MemoryServer
from tests.kit.support import frame, request, started


class Stage(MemoryServer):
    """The server, and a raw peer on a line to it; for the loops of tests/kit/clock.py."""

    def __init__(self, form: str = "app", **limits: Any) -> None:
        self.loop: Any = asyncio.get_running_loop()
        self.calls: list[sockrpc.Call] = []
        self.told: list[str] = []
        self.may_go = asyncio.Event()
        super().__init__(self.app() if form == "app" else self.socket_form, stop_grace=3.0, **limits)
        self.raw_end, self.line = self.raw()

    def app(self) -> sockrpc.App:
        app = sockrpc.App()
        app.method("echo")(lambda call: call.payload)
        app.method("fail")(self.fail)
        app.method("wait")(self.wait)
        app.method("late")(self.late)
        app.method("timed", timeout=2.0)(self.wait)
        app.method("finishing", run_to_completion=True)(self.wait)
        app.method("completing", timeout=2.0, run_to_completion=True)(self.wait)
        return app

    def fail(self, call: sockrpc.Call) -> None:
        raise RuntimeError("as intended")

    async def wait(self, call: sockrpc.Call) -> bytes:
        self.calls.append(call)
        try:
            await self.may_go.wait()
        except asyncio.CancelledError:
            self.told.append(f"{call.id} cancelled, {call.abort_reason}")
            raise
        self.told.append(f"{call.id} went on, {call.abort_reason}")
        return call.payload

    async def late(self, call: sockrpc.Call) -> None:
        self.calls.append(call)
        try:
            await self.may_go.wait()
        except asyncio.CancelledError:
            self.told.append(f"respond: {await call.respond(b'late')}")

    async def socket_form(self, socket: sockrpc.Socket) -> None:
        async for procedure in socket:
            assert isinstance(procedure, sockrpc.Call)
            self.calls.append(procedure)
            del procedure

    async def send(self, *frames: bytes) -> None:
        self.raw_end.send(*frames)
        await self.settle()

    async def pass_time(self, seconds: float) -> None:
        self.loop.advance(seconds)
        await self.settle()

    def outcomes(self) -> dict[str, int]:
        """How the calls so far have ended, those that were not to be seen left out."""
        statistics = self.server.statistics()
        counted = {outcome.name: getattr(statistics, outcome.counter) for outcome in ENDINGS}
        return {name: count for name, count in counted.items() if count}

    async def lose(self) -> None:
        self.line.cut()
        await self.settle()

    async def one_runs_and_one_waits(self) -> None:
        await self.send(request(1, "wait", b"one"), request(2, "wait", b"two"))
        assert [call.id for call in self.calls] == [1]

    async def let_go(self) -> None:
        self.may_go.set()
        await self.settle()

    async def __aexit__(self, *exc_info: object) -> None:
        self.server.close()
        for _ in range(20):
            await self.pass_time(1.0)
            if self.has_stopped() and all(pair.client.lost for pair in self.pairs):
                return
        raise AssertionError("it never stops")

    async def blocked(self, waiters: int) -> tuple[sockrpc.Client, Pair, list[asyncio.Task[bytes]]]:
        """A client whose output is blocked by its first calls: those from the third on are unsent."""
        limits = {"output_high_bytes": 10, "output_low_bytes": 5, "ping_interval": None}
        client, pair = self.connect(capacity=1, limits=limits)
        return client, pair, [await started(client.call("echo", bytes(20))) for _ in range(waiters)]


def response(id: int, payload: bytes) -> bytes:
    return frame(2, b"\x04" + struct.pack("!I", id) + payload, masked=False)
