"""Calls in `sockrpc.v1` that follow programs, at both of their ends, and what the test knows of them.

A program is a word of a small language, in which each letter is a step of a handler or of a caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import struct
from collections.abc import AsyncIterator
from typing import Any

import sockrpc
from sockrpc import Code, Outcome, RPCError
from tests.kit.handlers import INTENDED

# Seconds that a call and a method may take, if they may not take as long as they want.
CALLS_TIMEOUT, METHODS_TIMEOUT = 0.9, 0.7

# A window is 65,536 bytes at least, and no item is larger than it.
SIZES = (0, 1, 64, 1000, 20_000, 40_000, 65_536)


def item(key: int, number: int) -> bytes:
    """The item of a call with this number: it names its call as far as it is large enough."""
    size = SIZES[(key * 5 + number * 3) % len(SIZES)]
    return (struct.pack("!II", key, number) * (size // 8 + 1))[:size]


class Work:
    """One call, as the test sees it.

    Attributes:
        side: Which end makes it: 0 the client, 1 the server.
        how: What its caller does with it.
        method: The kind of handler.
        theirs: The program of its handler.
        ours: The program of its caller.
        outer: The call whose handler makes it, to the peer that waits for that handler.
    """

    def __init__(
        self, key: int, side: int, how: str, method: str, theirs: str, ours: str, outer: Work | None
    ) -> None:
        self.key, self.side, self.how = key, side, how
        self.method, self.theirs, self.ours, self.outer = method, theirs, ours, outer
        self.made_at = asyncio.get_running_loop().time()
        self.payload = struct.pack("!I", key)
        self.begun = 0
        self.running = 0
        self.returned = False
        self.responded = False
        self.sent_up = self.sent_down = self.got_up = self.got_down = 0
        self.hooks: list[int] = []
        self.undone: list[int] = []
        self.cancels = 0
        self.aborted = False  # a CancelledError was raised in the handler
        self.outcome: Outcome | None = None
        self.error: str | None = None
        self.answer: bytes | None = None

    def __repr__(self) -> str:
        return (
            f"<{self.key} {self.how}/{self.ours} of {self.method}/{self.theirs} by {self.side}: "
            f"begun {self.begun}, running {self.running}, returned {self.returned}, "
            f"{self.outcome}, {self.error}>"
        )

    @property
    def nested(self) -> bool:
        return self.outer is not None

    @property
    def has_deadline(self) -> bool:
        """True if it is bounded, by itself or by the call that it is made for, and such a time is over."""
        if self.outer is not None and self.outer.has_deadline:
            return True
        ours = CALLS_TIMEOUT if "d" in self.ours else math.inf
        theirs = METHODS_TIMEOUT if self.method == "timed" else math.inf
        return asyncio.get_running_loop().time() >= self.made_at + min(ours, theirs)

    @property
    def takes(self) -> bool:
        return self.how in ("stream", "both", "result", "direct")

    @property
    def sends(self) -> bool:
        return self.how in ("pump", "both", "result", "direct")


class Programs:
    """Runs programs. The world provides gates, and makes the work of nested calls."""

    works: dict[int, Work]

    def gate(self) -> asyncio.Future[None]:
        raise NotImplementedError

    def new_nested(self, outer: Work, letter: str) -> Work:
        raise NotImplementedError

    def app(self) -> sockrpc.App:
        """What each of the two ends serves."""
        app = sockrpc.App()
        app.method("work")(self.work)
        app.method("completing", run_to_completion=True)(self.work)
        app.method("timed", timeout=METHODS_TIMEOUT)(self.work)
        app.method("plain")(self.plain)
        app.method("generator")(self.generator)
        app.on("note")(lambda notification: None)
        return app

    # Handlers

    @contextlib.asynccontextmanager
    async def handling(self, call: sockrpc.Call) -> AsyncIterator[Work]:
        work = self.works[int.from_bytes(call.payload)]
        assert not work.begun, f"{work} began twice"
        work.begun += 1
        work.running += 1
        try:
            yield work
            if "z" in work.theirs:
                await self.gate()
            work.returned = True
        except asyncio.CancelledError:
            self.note_cancel(work)
            if "z" in work.theirs:
                await self.gate()
            raise
        finally:
            work.running -= 1

    def plain(self, call: sockrpc.Call) -> bytes:
        work = self.works[int.from_bytes(call.payload)]
        work.begun += 1
        if "f" in work.theirs:
            raise RPCError(Code.NOT_FOUND, INTENDED)
        work.returned = True
        return call.payload

    async def work(self, call: sockrpc.Call) -> bytes | None:
        async with self.handling(call) as work:
            for letter in work.theirs:
                await getattr(self, "do_" + letter)(work, call)
        return None if work.responded else call.payload

    async def generator(self, call: sockrpc.Call) -> AsyncIterator[bytes]:
        async with self.handling(call) as work:
            for letter in work.theirs:
                if letter == "y":
                    for _ in range(3):
                        number, work.sent_down = work.sent_down, work.sent_down + 1
                        yield item(work.key, number)
                else:
                    await getattr(self, "do_" + letter)(work, call)

    async def do_w(self, work: Work, call: sockrpc.Call) -> None:
        await self.gate()

    async def do_s(self, work: Work, call: sockrpc.Call) -> None:
        await asyncio.sleep(0)

    async def do_d(self, work: Work, call: sockrpc.Call) -> None:
        await asyncio.sleep(0.3)

    async def do_z(self, work: Work, call: sockrpc.Call) -> None:
        """Its cleanup waits for a gate."""

    async def do_y(self, work: Work, call: sockrpc.Call) -> None:
        for _ in range(3 if work.takes else 0):
            if await call.send(item(work.key, work.sent_down)):
                assert not call.is_reset or work.responded
                work.sent_down += 1

    async def do_b(self, work: Work, call: sockrpc.Call) -> None:
        """An item that is larger than any window is refused, and nothing of it is sent."""
        if work.takes and not (call.is_reset or work.responded):
            with contextlib.suppress(sockrpc.UsageError):
                assert not await call.send(bytes(1_000_000)), f"{work} has sent more than a window"

    async def do_t(self, work: Work, call: sockrpc.Call) -> None:
        await self.take_up(work, call, 2)

    async def do_a(self, work: Work, call: sockrpc.Call) -> None:
        await self.take_up(work, call, 1 << 30)

    async def take_up(self, work: Work, call: sockrpc.Call, count: int) -> None:
        """Take some items, and leave the rest."""
        if not work.sends or work.got_up or work.responded:
            return
        taken = 0
        try:
            async for data in call.items():
                assert data == item(work.key, work.got_up), f"{work} got another's item"
                work.got_up += 1
                taken += 1
                if taken == count:
                    break
        except sockrpc.UsageError:
            pass  # it has asked for them before
        except RPCError:
            assert call.is_reset, f"{work} lost its items"

    async def do_n(self, work: Work, call: sockrpc.Call) -> None:
        await self.nested(work, call, "n")

    async def do_i(self, work: Work, call: sockrpc.Call) -> None:
        await self.nested(work, call, "i")

    async def nested(self, work: Work, call: sockrpc.Call, letter: str) -> None:
        if call.is_reset or work.responded:
            return
        inner = self.new_nested(work, letter)
        with contextlib.suppress(RPCError, sockrpc.ConnectionLost, sockrpc.ConnectionClosed):
            await self.make(inner, call.peer)

    async def do_r(self, work: Work, call: sockrpc.Call) -> None:
        if not work.responded:
            work.responded = True
            assert await call.respond(call.payload) is not call.is_reset

    async def do_f(self, work: Work, call: sockrpc.Call) -> None:
        raise RPCError(Code.NOT_FOUND, INTENDED)

    async def do_e(self, work: Work, call: sockrpc.Call) -> None:
        raise ValueError(INTENDED)

    async def do_c(self, work: Work, call: sockrpc.Call) -> None:
        call.commit()

    async def do_u(self, work: Work, call: sockrpc.Call) -> None:
        work.hooks.append(len(work.hooks))
        call.on_abort(self.undo, work, work.hooks[-1])

    async def undo(self, work: Work, number: int) -> None:
        work.running += 1
        await asyncio.sleep(0)
        work.undone.append(number)
        work.running -= 1

    async def do_x(self, work: Work, call: sockrpc.Call) -> None:
        try:
            await self.gate()
        except asyncio.CancelledError:
            self.note_cancel(work)

    def note_cancel(self, work: Work) -> None:
        task = asyncio.current_task()
        assert task is not None
        work.aborted = True
        work.cancels = max(work.cancels, task.cancelling())

    # Callers

    async def source(self, work: Work, count: int) -> AsyncIterator[bytes]:
        while work.sent_up < count:
            if work.sent_up % 2:
                await asyncio.sleep(0)
            number, work.sent_up = work.sent_up, work.sent_up + 1
            yield item(work.key, number)

    async def make(self, work: Work, calls: Any) -> None:
        """Make the call, and note how it ended."""
        try:
            await self.make_one(work, calls)
        except (RPCError, sockrpc.ConnectionLost) as error:
            work.error, work.outcome = repr(error), error.outcome
            raise
        except BaseException as error:
            work.error = repr(error)
            raise

    async def make_one(self, work: Work, calls: Any) -> None:
        timeout = CALLS_TIMEOUT if "d" in work.ours else None
        count = 1 + work.key % 6
        options: dict[str, Any] = {"timeout": timeout}
        if "m" in work.ours:
            options["metadata"] = {"traceparent": "x"}
        if work.how in ("call", "pump"):
            if work.how == "pump":
                options["items"] = self.source(work, count)
            work.answer = await calls.call(work.method, work.payload, **options)
        elif work.how == "handle":
            handle = calls.start(work.method, work.payload, **options)
            if "w" in work.ours:
                await self.gate()
                work.outcome = await handle.cancel()
            work.answer = await handle
        else:
            if work.how in ("both", "result"):
                options["items"] = self.source(work, count)
            stream = calls.stream(work.method, work.payload, **options)
            if work.how == "stream":
                # It is left by being dropped, where no traceback refers to it.
                try:
                    await self.use(work, stream)
                except BaseException:
                    await stream.aclose()
                    raise
                return
            async with stream:
                await self.use(work, stream)

    async def use(self, work: Work, stream: Any) -> None:
        """Work through a stream as the program of its caller says, then take the rest or leave it."""
        for letter in work.ours:
            if letter == "w":
                await self.gate()
            elif letter == "b":
                return
            elif letter == "t":
                if work.how == "direct":
                    # Its handler may wait for the end of the items.
                    await stream.end()
                await self.take_down(work, stream)
            elif letter == "p" and work.how == "direct":
                work.sent_up += await stream.send(item(work.key, work.sent_up))
        if work.how == "direct":
            await stream.end()
        if work.how == "result":
            work.answer = await stream.result()
            return
        while await self.take_down(work, stream):
            pass

    async def take_down(self, work: Work, stream: Any) -> bool:
        async for data in stream:
            assert data == item(work.key, work.got_down), (
                f"{work} got {len(data)} bytes, {data[:8].hex()}, as item {work.got_down}"
            )
            work.got_down += 1
            return True
        return False
