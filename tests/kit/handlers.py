"""An application whose handlers do what the script of a test says; see test_engine.py."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import sockrpc
from tests.kit.inside import has_ended
from tests.kit.pair import has_paused_writing
from tests.kit.wire import Line, Work

EAGER = hasattr(asyncio, "eager_task_factory")
# What failing handlers raise; everything else that reaches a log or a loop is a defect.
INTENDED = "as intended"


class Handlers:
    """The application: it does what the program of each work says, and notes what it sees."""

    def __init__(self) -> None:
        self.works: dict[int, Work] = {}
        self.lines: list[Line] = []
        self.gates: list[asyncio.Future[None]] = []
        self.held: list[Work] = []
        self.notifying: dict[int, int] = {}
        self.unknown = 0
        self.is_admitting = True

    async def gate(self) -> None:
        """Wait until the script lets it go on."""
        future = asyncio.get_running_loop().create_future()
        self.gates.append(future)
        try:
            await future
        finally:
            self.gates.remove(future)

    def begin(self, call: sockrpc.Call) -> Work:
        work = self.works[int.from_bytes(call.payload[:4], "big")]
        line = work.line
        assert not work.begun, f"{work} began twice"
        assert work.heard, f"{work} began before it was sent"
        # Without eager tasks it may be reset between its start and its first step.
        assert not work.silent or (not EAGER and "completing" in work.method), f"{work} began after its reset"
        assert call.socket is line.connection.socket
        assert call.id == work.id
        assert call.method == work.method
        work.begun = True
        work.call = call
        if EAGER:
            assert work.heard > line.last_begun, f"{work} overtook another"
            line.last_begun = work.heard
            assert not has_paused_writing(line.pair.server), f"{work} began while output was blocked"
        alive = sum(each.is_alive for each in line.works)
        assert alive < line.world.here.limits.max_in_flight, f"{work} is one too many"
        return work

    async def respond(self, work: Work, call: sockrpc.Call) -> None:
        # It may be on the wire before `respond` returns.
        work.responding = work.used = True
        try:
            if await call.respond(work.answer):
                work.responded = True
        finally:
            work.responding = False

    # The App form

    def app(self) -> sockrpc.App:
        app = sockrpc.App()
        app.method("plain")(self.plain)
        app.method("burn")(self.burn)
        app.method("fail")(self.fail)
        app.method("program")(self.handle)
        app.method("completing", run_to_completion=True)(self.handle)
        app.method("timed", timeout=2.0)(self.handle)
        app.method("timed completing", timeout=2.0, run_to_completion=True)(self.handle)
        app.on("note")(self.note)
        return app

    def plain(self, call: sockrpc.Call) -> bytes:
        work = self.begin(call)
        work.value = True
        return work.answer

    def burn(self, call: sockrpc.Call) -> bytes:
        # Longer than the share of time that one read gets.
        until = time.perf_counter() + 0.006
        while time.perf_counter() < until:
            pass
        return self.plain(call)

    def fail(self, call: sockrpc.Call) -> bytes:
        self.begin(call).broken = True
        raise RuntimeError(INTENDED)

    async def handle(self, call: sockrpc.Call) -> Any:
        work = self.begin(call)
        work.running += 1
        work.tasks.append(asyncio.current_task())
        try:
            value = await self.program(work, call)
        except BaseException:
            work.broken = True
            raise
        finally:
            work.running -= 1
            work.cancels.append(work.tasks[0].cancelling())
        if (value is not None or not work.used) and not work.broken:
            work.value = True
        return value

    async def note(self, notification: sockrpc.Notification) -> None:
        number = self.lines.index(
            next(line for line in self.lines if line.connection.socket is notification.socket)
        )
        self.notifying[number] = self.notifying.get(number, 0) + 1
        try:
            if notification.payload[:1] == b"w":
                await self.gate()
            elif notification.payload[:1] == b"f":
                raise RuntimeError(INTENDED)
        finally:
            self.notifying[number] -= 1

    # The socket form

    async def socket_form(self, socket: sockrpc.Socket) -> None:
        async for procedure in socket:
            if isinstance(procedure, sockrpc.Notification):
                del procedure
                await self.gate()
                continue
            work = self.begin(procedure)
            method = work.method
            if method == "plain":
                await self.respond(work, procedure)
            elif method == "held":
                work.held = True
                self.held.append(work)
            elif method == "slow":
                await self.gate()
                await self.respond(work, procedure)
            elif method == "leave":
                return
            elif method == "raise":
                raise RuntimeError(INTENDED)
            elif method == "drop":
                work.call = None
                work.broken = True
            else:
                self.spawn(work, procedure, self.spawned_program(work, procedure))
            del procedure, work

    async def spawned_program(self, work: Work, call: sockrpc.Call) -> None:
        value = await self.program(work, call)
        if value is not None and not work.responded:
            await self.respond(work, call)

    def spawn(self, work: Work, call: sockrpc.Call, coroutine: Any) -> None:
        work.used = True
        holds_no_slot = work.undo_is_due  # its work was cancelled, so the task is cancelled at once
        task = call.spawn_and_abort_on_reset(coroutine)
        if not holds_no_slot:
            work.tasks.append(task)
            work.spawned.append(task)
            task.add_done_callback(lambda task: work.cancels.append(task.cancelling()))

    # What a handler may do, a letter each

    async def program(self, work: Work, call: sockrpc.Call) -> Any:
        for letter in work.program:
            if letter == "n":
                work.broken = True
                return 7
            if letter == "N":
                # Not an answer if the work was handed to others; else an empty one.
                work.answer = work.answer if work.used else b""
                return None
            await getattr(self, f"do_{letter}")(work, call)
        return None if work.responded else work.answer

    async def do_w(self, work: Work, call: sockrpc.Call) -> None:
        await self.gate()

    async def do_s(self, work: Work, call: sockrpc.Call) -> None:
        await asyncio.sleep(0)

    async def do_v(self, work: Work, call: sockrpc.Call) -> None:
        await asyncio.sleep(1.0)

    async def do_r(self, work: Work, call: sockrpc.Call) -> None:
        try:
            await self.respond(work, call)
        except sockrpc.UsageError:
            assert work.responded or work.broken or work.value

    async def do_f(self, work: Work, call: sockrpc.Call) -> None:
        work.broken = True
        raise RuntimeError(INTENDED)

    async def do_q(self, work: Work, call: sockrpc.Call) -> None:
        work.broken = True
        raise asyncio.CancelledError

    async def do_k(self, work: Work, call: sockrpc.Call) -> None:
        try:
            await self.gate()
        except asyncio.CancelledError:
            pass

    async def do_c(self, work: Work, call: sockrpc.Call) -> None:
        try:
            await self.gate()
        finally:
            await self.gate()

    async def do_t(self, work: Work, call: sockrpc.Call) -> None:
        try:
            async with asyncio.timeout(1.0):
                await self.gate()
        except TimeoutError:
            pass

    async def do_g(self, work: Work, call: sockrpc.Call) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.gate())
            group.create_task(self.gate())

    async def do_u(self, work: Work, call: sockrpc.Call) -> None:
        number = len(work.hooks)
        work.hooks.append(number)
        call.on_abort(self.undo, work, number)

    async def do_U(self, work: Work, call: sockrpc.Call) -> None:  # noqa: N802
        number = len(work.hooks)
        work.hooks.append(number)
        call.on_abort(self.undo_slowly, work, number)

    def undo(self, work: Work, number: int) -> None:
        assert not work.running, f"{work} was undone while its handler ran"
        assert not work.undoing, f"{work}: two undo hooks at a time"
        work.undone.append(number)
        if number % 2:
            raise RuntimeError(INTENDED)

    async def undo_slowly(self, work: Work, number: int) -> None:
        self.undo(work, number - number % 2)
        work.undone[-1] = number
        work.undoing = True
        try:
            await self.gate()
        finally:
            work.undoing = False

    async def do_x(self, work: Work, call: sockrpc.Call) -> None:
        self.spawn(work, call, self.gate())

    async def do_X(self, work: Work, call: sockrpc.Call) -> None:  # noqa: N802
        self.spawn(work, call, self.answering(work, call))

    async def answering(self, work: Work, call: sockrpc.Call) -> None:
        await self.gate()
        await self.do_r(work, call)

    async def do_a(self, work: Work, call: sockrpc.Call) -> None:
        await call.abort_on_reset(self.gate())
        work.was_told = work.is_reset

    async def do_z(self, work: Work, call: sockrpc.Call) -> None:
        await call.wait_reset()
        assert work.is_reset or work.responded, f"{work}: wait_reset returned without a reset"
        work.was_told = True

    async def do_o(self, work: Work, call: sockrpc.Call) -> None:
        call.socket.notify_nowait("event", bytes(50))

    async def do_O(self, work: Work, call: sockrpc.Call) -> None:  # noqa: N802
        try:
            await call.socket.notify("event", bytes(60))
        except (sockrpc.ConnectionLost, sockrpc.ConnectionClosed, sockrpc.ProtocolError):
            assert has_ended(work.line.connection)

    async def do_l(self, work: Work, call: sockrpc.Call) -> None:
        await call.socket.close(3000, "the handler's wish")
