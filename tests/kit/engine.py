"""A server, its clients and the lines between them under a script of operations; see test_engine.py."""

from __future__ import annotations

import asyncio
from typing import Any

import sockrpc
from sockrpc.peer.table import live_entries
from tests.kit.handlers import EAGER, Handlers
from tests.kit.inside import begin_close, has_ended, payloads_waiting
from tests.kit.pair import MemoryServer
from tests.kit.support import CLOSE, TEXT, frame, notify, request, reset
from tests.kit.wire import Line, Work

# kind, two numbers whose meaning depends on the kind, and the program of a handler
Operation = tuple[str, int, int, str]

APP_METHODS = ("program", "plain", "completing", "timed", "timed completing", "fail", "burn", "nobody")
SOCKET_METHODS = ("program", "plain", "held", "slow", "drop", "program", "leave", "raise")
SIZES = (1, 1_000_000, 13, 3, 40, 200)
LOSSES = ("fin", "die", "cut", "abort", "close", "close frame", "text", "half a frame", "id in use")
# Nothing here needs as many turns of the loop unless it never ends.
TURNS = 20_000


class World(Handlers):
    """Everything that a script works on."""

    def __init__(self, *, socket_form: bool, raw: int, capacity: int, limits: dict[str, Any]) -> None:
        super().__init__()
        self.loop: Any = asyncio.get_running_loop()
        self.is_socket_form = socket_form
        self.methods = SOCKET_METHODS if socket_form else APP_METHODS
        self.here = MemoryServer(self.socket_form if socket_form else self.app(), **limits)
        self.capacity = capacity
        self.error: BaseException | None = None
        self.entries_before = live_entries()
        self.was_forced = False
        self.join(0)
        self.join(raw)

    async def play(self, script: list[Operation]) -> None:
        """Run a script: operations between two turns of the loop happen in one iteration."""
        for kind, one, two, program in script:
            if kind == "turn":
                for _ in range(1 + one % 3):
                    await self.turn()
            else:
                # From the loop, as transports do it, not from inside a task.
                self.loop.call_soon(self.apply, kind, one, two, program)
        await self.turn()

    async def turn(self) -> None:
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error

    def apply(self, kind: str, one: int, two: int, program: str) -> None:
        try:
            if self.error is None:
                getattr(self, "op_" + kind)(one, two, program)
                for line in self.lines:
                    line.check_limits()
        except BaseException as error:
            self.error = error

    # Operations: what each does with its two numbers and its program

    def join(self, raw: int) -> None:
        number = len(self.lines)
        if raw % 2:
            end, pair = self.here.raw(capacity=self.capacity)
            self.lines.append(Line(self, number, pair, None, end))
        else:
            limits = {"output_high_bytes": 150, "output_low_bytes": 60, "ping_interval": None}
            client, pair = self.here.connect(capacity=self.capacity, limits=limits)
            self.lines.append(Line(self, number, pair, client, None))

    def line(self, number: int) -> Line:
        return self.lines[number % len(self.lines)]

    def op_join(self, one: int, two: int, program: str) -> None:
        if len(self.lines) < 4 and not self.here.service.stopping:
            self.join(one)

    def op_call(self, one: int, two: int, program: str) -> None:
        line = self.line(one)
        work = self.new_work(line, two, program)
        if line.client is not None:
            timeout = 1.5 if two % 16 > 11 else None
            line.waiters[work] = self.loop.create_task(self.call(line, work, timeout))
        elif line.pair.client.can_write():
            line.last_id += 1
            line.raw.send(request(line.last_id, work.method, work.payload))

    def new_work(self, line: Line, two: int, program: str) -> Work:
        size = (0, 3, 40, 400)[two // 8 % 4]
        work = Work(len(self.works) + 1, line, self.methods[two % len(self.methods)], program, size)
        self.works[work.key] = work
        line.works.append(work)
        return work

    async def call(self, line: Line, work: Work, timeout: float | None) -> bytes:
        answer: bytes = await line.client.call(work.method, work.payload, timeout=timeout)
        assert answer == work.answer, f"{work} got the answer of another"
        return answer

    def op_cancel(self, one: int, two: int, program: str) -> None:
        line = self.line(one)
        if line.client is not None:
            waiting = [task for task in line.waiters.values() if not task.done()]
            if waiting:
                waiting[two % len(waiting)].cancel()
        elif line.works and line.pair.client.can_write():
            line.raw.send(reset(1 + two % (line.last_id + 1)))

    def op_reuse(self, one: int, two: int, program: str) -> None:
        """Reset an id and use it again, in one write."""
        line = self.line(one)
        if line.raw is not None and line.last_id and line.pair.client.can_write():
            work = self.new_work(line, two, program)
            line.raw.send(reset(line.last_id), request(line.last_id, work.method, work.payload))

    def op_brief(self, one: int, two: int, program: str) -> None:
        """Make a request and reset it, in one write."""
        self.op_call(one, two, program)
        line = self.line(one)
        if line.raw is not None and line.pair.client.can_write():
            line.raw.send(reset(line.last_id))

    def op_up(self, one: int, two: int, program: str) -> None:
        line = self.line(one)
        line.pair.server.receive(SIZES[two % len(SIZES)])
        line.after_delivery()

    def op_down(self, one: int, two: int, program: str) -> None:
        self.line(one).pair.client.receive(SIZES[two % len(SIZES)])

    def op_flow(self, one: int, two: int, program: str) -> None:
        for line in self.lines:
            line.pair.deliver_all()
            line.after_delivery()

    def op_release(self, one: int, two: int, program: str) -> None:
        waiting = [gate for gate in self.gates if not gate.done()]
        if waiting:
            waiting[one % len(waiting)].set_result(None)

    def op_answer(self, one: int, two: int, program: str) -> None:
        """Answer a call that the socket form has kept."""
        if self.held:
            work = self.held.pop(one % len(self.held))
            assert work.call is not None
            self.here.service.keep(self.loop.create_task(self.do_r(work, work.call)))

    def op_advance(self, one: int, two: int, program: str) -> None:
        self.loop.advance((0.3, 1.1, 2.5)[one % 3])

    def op_notify(self, one: int, two: int, program: str) -> None:
        line = self.line(one)
        if line.client is not None:
            coroutine = line.client.notify("note", program[:1])
            line.notifiers.append(self.loop.create_task(coroutine))
        elif line.pair.client.can_write():
            line.raw.send(notify("note", program[:1].encode()))

    def op_event(self, one: int, two: int, program: str) -> None:
        self.line(one).connection.socket.notify_nowait("event", bytes([two % 256]) * (two % 100))

    def op_lose(self, one: int, two: int, program: str) -> None:
        line = self.line(one)
        how = LOSSES[two % len(LOSSES)]
        end = line.pair.client
        if how == "cut":
            line.pair.cut()
        elif how == "abort":
            line.pair.server.abort()
        elif how == "die":
            end.die()
        elif not end.can_write():
            return
        elif how == "fin":
            end.write_eof()
        elif line.client is not None:
            begin_close(line.client, 1000, "")
        elif how == "close frame":
            line.raw.send(frame(CLOSE, b"\x03\xe8"))
        elif how == "text":
            line.raw.send(frame(TEXT, b"text"))
        elif how == "id in use" and line.last_id:
            # Where the id is free again, this is an ordinary request.
            work = self.new_work(line, two, program)
            line.raw.send(request(line.last_id, work.method, work.payload))
        else:
            line.raw.send(b"\x82\xff")

    def op_stop(self, one: int, two: int, program: str) -> None:
        # Seldom, or most scripts would be about nothing else.
        if one % 4 == 0:
            self.was_forced = True
            if two % 8 == 7:
                self.here.server.hurry()
            else:
                self.here.server.close()

    # The end

    async def settle(self) -> None:
        """Let everything happen that the bytes on their way and the loop have in store."""
        quiet = 0
        for _ in range(TURNS):
            before = self.loop.scheduled
            moved = False
            for line in self.lines:
                if line.pair.deliver_all():
                    moved = True
                    line.after_delivery()
                    line.check_limits()
            await self.turn()
            # Twice nothing was scheduled but the next step of this very task.
            quiet = quiet + 1 if not moved and self.loop.scheduled == before + 1 else 0
            if quiet == 2:
                return
        raise AssertionError("it never comes to rest")

    async def release_all(self) -> None:
        """Let every handler go on, until none waits for the script."""
        await self.settle()
        for _ in range(TURNS):
            if not self.gates and not self.held:
                return
            while self.held:
                self.op_answer(0, 0, "")
            for gate in self.gates:
                if not gate.done():
                    gate.set_result(None)
            await self.settle()
        raise AssertionError("handlers wait for ever")

    async def finish(self, *, patient: bool) -> None:
        """Let all work end, stop the server, and hold the engine to its obligations."""
        if patient:
            await self.release_all()
            for _ in range(8):
                if all(line.pair.server.lost or not has_ended(line.connection) for line in self.lines):
                    break
                # Somebody waits for a close frame that never comes.
                self.loop.advance(0.5)
                await self.release_all()
            self.check_at_rest()
        graceful = [] if self.was_forced or not patient else self.lines
        graceful = [line for line in graceful if not has_ended(line.connection)]
        self.here.server.close()
        await self.settle()
        for _ in range(60):
            if self.here.has_stopped():
                break
            if patient:
                await self.release_all()
            self.loop.advance(0.5)
            await self.settle()
        assert self.here.has_stopped(), "the server never stopped"
        for line in graceful:
            for work in line.works:
                assert work.on_wire == work.answered, f"{work} was not answered before the stop"
        self.was_forced |= not patient
        # What ignored its cancel was left behind; here it may end.
        for _ in range(60):
            await self.release_all()
            if len(asyncio.all_tasks()) == 1:
                break
            self.loop.advance(1.0)
        await self.check_end()

    def check_at_rest(self) -> None:
        """All is delivered and nobody waits for the script: what must be true of every call."""
        statistics = self.here.server.statistics()
        for line in self.lines:
            self.check_line(line)
        works = self.works.values()
        begun = [work for work in works if work.begun]
        unknown = sum(work.method == "nobody" and work.heard > 0 for work in works)
        assert statistics.calls_answered == sum(work.answered for work in begun)
        aborted = (
            statistics.calls_reset
            + statistics.calls_lost
            + statistics.calls_timed_out
            + statistics.calls_stopped
        )
        total = statistics.calls_answered + statistics.calls_failed + aborted + statistics.calls_in_flight
        assert aborted >= sum(work.is_reset for work in begun)
        heard = sum(work.heard > 0 for work in works)
        assert total <= heard
        if all(line.pair.server.is_reading() for line in self.lines) and not self.here.service.stopping:
            # Nothing has ended, and nothing is left unparsed or was dropped.
            assert total == heard, statistics
            assert statistics.calls_started == len(begun) + unknown or not EAGER, statistics

    def check_line(self, line: Line) -> None:
        connection = line.connection
        active, waiting, notifying = connection.load
        alive = [work for work in line.works if work.is_alive]
        assert active == len(alive), f"{active} slots are taken by {alive}"
        assert notifying == self.notifying.get(line.number, 0)
        if has_ended(connection):
            left = [work for work in alive if "completing" not in work.method and not work.was_cancelled]
            assert not left, f"outlived its connection: {left}"
            assert line.pair.server.lost
            if not alive and not notifying:
                assert connection not in self.here.service.working
            return
        limits = self.here.limits
        if waiting and not self.is_socket_form:
            # No payload is shorter than 4 bytes.
            is_full = 4 * (active + notifying + 1) > limits.max_held_bytes
            assert is_full or active == limits.max_in_flight or notifying == limits.max_notifications, "stuck"
        room = not waiting or (
            waiting < limits.max_waiting_calls and 4 * (waiting + active + notifying) < limits.max_held_bytes
        )
        if room and not self.is_socket_form:
            assert line.pair.server.is_reading(), "reading stays paused"
        for work in line.works:
            if not work.heard or (waiting and not work.begun) or self.here.service.stopping:
                continue
            assert work.begun or work.reset_heard or work.method == "nobody", f"{work} was forgotten"
            assert work.on_wire == work.answered, f"{work} was not answered"
        if line.client is not None:
            waiting_tasks = [task for task in line.waiters.values() if not task.done()]
            assert len(line.client.status().pending) == len(waiting_tasks)
            for work, task in line.waiters.items():
                assert task.done() or not work.answered, f"{work}: its waiter got no answer"

    async def check_end(self) -> None:
        statistics = self.here.server.statistics()
        assert statistics.calls_in_flight == 0
        assert statistics.calls_running == 0
        assert statistics.notifications_running == 0
        assert statistics.connections == 0
        assert not self.here.service.working
        assert not self.here.service.tasks
        for work in self.works.values():
            assert not work.is_alive, f"{work} never ended"
            assert max(work.cancels, default=0) <= (2 if self.was_forced else 1), f"{work} {work.cancels}"
            expected = list(reversed(work.hooks)) if work.undo_is_due else []
            if self.was_forced:
                expected = expected[: len(work.undone)]
            assert work.undone == expected, f"{work} undid {work.undone} of {work.hooks}"
        for line in self.lines:
            await self.check_end_of(line)
        assert live_entries() == self.entries_before
        assert not self.loop.live_timers, self.loop.live_timers

    async def check_end_of(self, line: Line) -> None:
        assert line.pair.server.lost
        assert not line.pair.server.get_write_buffer_size()
        for tasks in (line.waiters.values(), line.notifiers):
            for task in tasks:
                assert task.done(), "a waiter was forgotten"
                error = None if task.cancelled() else task.exception()
                if error is not None and not isinstance(
                    error, sockrpc.ConnectionLost | sockrpc.ConnectionClosed | TimeoutError
                ):
                    raise error
        if line.listener is not None:
            heard = payloads_waiting(line.listener)
            assert heard == line.events_written[: len(heard)]
            await line.listener.aclose()
