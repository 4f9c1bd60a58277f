"""Two engines that call each other in `sockrpc.v1` under a script of operations; see test_v1_model.py."""

from __future__ import annotations

import asyncio
from typing import Any

import sockrpc
from sockrpc import Code, Outcome, RPCError
from sockrpc.peer.table import live_entries
from sockrpc.testing.books import books
from tests.kit.inside import begin_close, begin_drain, use_lowest_ids
from tests.kit.pair import MemoryServer, set_capacity, written_by
from tests.kit.v1_line import ERROR, RESPONSE, Frame, Life, V1Line
from tests.kit.v1_work import Programs, Work

PROTOCOL = "sockrpc.v1"

# kind, two numbers whose meaning depends on the kind, and the programs of a handler and of its caller
Operation = tuple[str, int, int, str, str]

HOWS = ("call", "stream", "both", "pump", "handle", "direct", "result", "call")
METHODS = ("work", "work", "generator", "completing", "work", "timed", "plain", "nobody")
READS = (1, 1_000_000, 7, 300, 40_000, 9)
LOSSES = ("cut", "die", "abort", "fin", "close")
# Codes that a call may end with here beside those that its handler raises.
CODES = (
    Code.NOT_FOUND,
    Code.CANCELLED,
    Code.DEADLINE_EXCEEDED,
    Code.UNAVAILABLE,
    Code.RESOURCE_EXHAUSTED,
    Code.INTERNAL,
    Code.UNIMPLEMENTED,
    Code.FAILED_PRECONDITION,
)
# Nothing here needs as many turns of the loop unless it never ends.
TURNS = 3_000
QUIET = 12


class World(Programs):
    """Everything that a script works on: one line, a client and a server at its ends."""

    def __init__(self, *, limits: dict[str, Any], window: int, capacity: int) -> None:
        self.loop: Any = asyncio.get_running_loop()
        self.works: dict[int, Work] = {}
        self.tasks: dict[Work, asyncio.Task[None]] = {}
        self.gates: list[asyncio.Future[None]] = []
        self.gates_open = False
        self.has_left = False  # one of the ends has said Goaway
        self.error: BaseException | None = None
        self.entries_before = live_entries()
        self.limits = limits
        app = self.app()
        self.here = MemoryServer(app, **limits)
        theirs = limits | {"window_bytes": window}
        self.client, self.pair = self.here.connect(
            protocol=PROTOCOL, app=app, limits=theirs, capacity=capacity
        )
        self.line = V1Line(self.pair, self.on_end)
        self.ends = (self.pair.client.protocol, self.pair.server.protocol)
        # Both Hellos were written before the line had its oracle.
        for ear, end in zip(self.line.ears, (self.pair.client, self.pair.server), strict=True):
            ear.wrote(written_by(end))

    def gate(self) -> asyncio.Future[None]:
        gate = self.loop.create_future()
        if self.gates_open:
            self.loop.call_soon(open_gate, gate)
        self.gates.append(gate)
        return gate

    # Scripts

    async def play(self, script: list[Operation]) -> None:
        """Run a script: operations between two turns of the loop happen in one iteration."""
        for kind, one, two, theirs, ours in script:
            if kind == "turn":
                for _ in range(1 + one % 3):
                    await self.turn()
            else:
                # From the loop, as transports do it, not from inside a task.
                self.loop.call_soon(self.apply, kind, one, two, theirs, ours)
        await self.turn()

    async def turn(self) -> None:
        await asyncio.sleep(0)
        self.loop.call_soon(self.check_step)
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error

    def apply(self, kind: str, *arguments: Any) -> None:
        try:
            if self.error is None:
                getattr(self, "op_" + kind)(*arguments)
        except BaseException as error:
            self.error = error
        self.check_step()

    def check_step(self) -> None:
        try:
            if self.error is None:
                self.line.after_step()
                self.check_limits()
        except BaseException as error:
            self.error = error

    def calls_of(self, side: int) -> Any:
        return self.ends[1].socket if side else self.client

    def op_call(self, one: int, two: int, theirs: str, ours: str) -> None:
        side = one % 2
        if side and not self.ends[1].greeted:
            return
        method, how = METHODS[two % len(METHODS)], HOWS[one // 2 % len(HOWS)]
        if method == "generator":
            theirs = "".join(letter for letter in theirs if letter not in "rb") + "y"
        if how == "direct":
            # Both ends that send before they take would wait for each other.
            theirs = theirs.replace("y", "t")
        self.make_later(self.new_work(side, how, method, theirs, ours, None))

    def new_work(self, side: int, how: str, method: str, theirs: str, ours: str, outer: Work | None) -> Work:
        work = Work(len(self.works) + 1, side, how, method, theirs, ours, outer)
        self.works[work.key] = work
        return work

    def new_nested(self, outer: Work, letter: str) -> Work:
        how, method = ("call", "work") if letter == "n" else ("both", "generator")
        inner = outer.theirs.replace("x", "")[1:4]
        if method == "generator":
            inner = "".join(letter for letter in inner if letter not in "rb") + "y"
        return self.new_work(1 - outer.side, how, method, inner, "", outer)

    def make_later(self, work: Work) -> None:
        # The lowest ids that are free, so that each is used again as soon as it can be.
        use_lowest_ids(self.ends[work.side], work.side)
        self.tasks[work] = self.loop.create_task(self.make(work, self.calls_of(work.side)))

    def op_cancel(self, one: int, two: int, theirs: str, ours: str) -> None:
        waiting = [task for task in self.tasks.values() if not task.done()]
        if waiting:
            waiting[one % len(waiting)].cancel()

    def op_brief(self, one: int, two: int, theirs: str, ours: str) -> None:
        """Make a call and cancel it as soon as it was made."""
        before = len(self.tasks)
        self.op_call(one, two, theirs, ours)
        if len(self.tasks) > before:
            task = list(self.tasks.values())[-1]
            self.loop.call_soon(task.cancel)

    def op_flow(self, one: int, two: int, theirs: str, ours: str) -> None:
        self.pair.deliver_all()

    def op_up(self, one: int, two: int, theirs: str, ours: str) -> None:
        self.pair.server.receive(READS[two % len(READS)])

    def op_down(self, one: int, two: int, theirs: str, ours: str) -> None:
        self.pair.client.receive(READS[two % len(READS)])

    def op_release(self, one: int, two: int, theirs: str, ours: str) -> None:
        waiting = [gate for gate in self.gates if not gate.done()]
        if waiting:
            waiting[one % len(waiting)].set_result(None)

    def op_advance(self, one: int, two: int, theirs: str, ours: str) -> None:
        self.loop.advance((0.2, 0.5, 1.0)[one % 3])

    def op_notify(self, one: int, two: int, theirs: str, ours: str) -> None:
        if not self.ends[1].has_ended:
            self.ends[1].socket.notify_nowait("note", b"x" * (two % 50))

    def op_lose(self, one: int, two: int, theirs: str, ours: str) -> None:
        how = LOSSES[two % len(LOSSES)]
        if one % 3:
            return  # seldom, or most scripts would be about nothing else
        self.line.is_cut = True
        if how == "cut":
            self.pair.cut()
        elif how == "abort":
            self.pair.server.abort()
        elif how == "die":
            self.pair.client.die()
        elif self.pair.client.can_write():
            if how == "fin":
                self.pair.client.write_eof()
            else:
                begin_close(self.client, 1000, "")

    def op_goaway(self, one: int, two: int, theirs: str, ours: str) -> None:
        if one % 2 == 0:
            self.has_left = True
            begin_drain(self.ends[two % 2])

    # What must hold at every step

    def on_end(self, life: Life, frame: Frame) -> None:
        """Called when the end of a call is written."""
        work = self.works[life.key]
        if frame.opcode == RESPONSE:
            assert work.returned or work.responded, f"{work} was answered, but not by its handler"
            assert work.responded or not work.running, f"{work} was ended while it ran"
            return
        assert frame.opcode == ERROR
        assert frame.code in CODES, f"{work} ended with the code {frame.code}"
        assert not work.running, f"{work} was ended while it ran"
        if frame.code == Code.CANCELLED:
            assert life.is_reset, f"{work} was not reset"
        elif frame.code == Code.DEADLINE_EXCEEDED:
            assert work.has_deadline, f"{work} has time left"
        elif frame.code == Code.UNAVAILABLE:
            assert self.has_left, f"{work} was refused"
        if frame.outcome == Outcome.NOT_STARTED.value:
            assert not work.begun, f"{work} had begun"
        else:
            assert work.begun, f"{work} had not begun"
        if frame.outcome == Outcome.COMPLETED.value:
            assert work.returned, f"{work} had not returned"
            assert not work.aborted, f"{work} had been aborted"
        if frame.code in (Code.CANCELLED, Code.UNAVAILABLE) and work.aborted:
            assert work.undone == work.hooks[::-1], f"{work} was ended before it was undone"

    def check_limits(self) -> None:
        for side, end in enumerate(self.ends):
            running = [work for work in self.works.values() if work.running and work.side != side]
            ordinary = sum(not work.nested for work in running)
            assert ordinary <= self.limits["max_in_flight"], f"{ordinary} calls run at {side}"
            assert len(running) - ordinary <= self.limits["max_in_flight"], f"too many nested calls at {side}"
            if not end.has_ended:
                assert 0 <= end.load[0] <= self.limits["max_in_flight"]

    # The end

    async def finish(self, *, patient: bool) -> None:
        self.gates_open = True
        for end in (self.pair.client, self.pair.server):
            if not end.lost:
                set_capacity(end, 1 << 20)
        if not patient:
            for task in self.tasks.values():
                task.cancel()
        await self.settle()
        assert all(task.done() for task in self.tasks.values()), self.stuck()
        if not self.line.is_over:
            for side, end in enumerate(self.ends):
                left = {name: count for name, count in books(end).items() if count}
                assert not left, f"the books of {side} are not closed: {left}, {self.line.lives}"
            assert not self.line.lives, f"ids are taken: {self.line.lives}"
            for work in self.works.values():
                if work.begun:
                    assert self.line.ends.get(work.key) == 1, (
                        f"{work} has {self.line.ends.get(work.key)} ends"
                    )
        self.has_left = True
        self.here.server.close()
        while not self.here.has_stopped():
            await self.settle()
        await self.here.server.wait_closed()
        if not self.pair.client.lost:
            begin_close(self.client, 1000, "")
        await self.settle()
        self.check_end()

    async def settle(self) -> None:
        """Let everything happen that can, time included, until nothing is left to happen."""
        quiet = 0
        for _ in range(TURNS):
            for gate in self.gates:
                open_gate(gate)
            self.gates.clear()
            self.loop.call_soon(self.apply, "flow", 0, 0, "", "")
            before = self.loop.scheduled
            await self.turn()
            busy = self.pair.client.expects() or self.pair.server.expects() or self.gates
            # Four callbacks are the test's own.
            quiet = 0 if busy or self.loop.scheduled - before > 5 else quiet + 1
            if quiet >= QUIET:
                if not self.loop.live_timers:
                    return
                self.loop.advance(0.35)
                quiet = QUIET - 4
                if all(task.done() for task in self.tasks.values()) and self.is_idle():
                    return
        raise AssertionError(self.stuck())

    def is_idle(self) -> bool:
        return not any(work.running for work in self.works.values()) and not any(
            count for end in self.ends if not end.has_ended for count in books(end).values()
        )

    def stuck(self) -> str:
        waiting = [work for work, task in self.tasks.items() if not task.done()]
        running = [work for work in self.works.values() if work.running]
        return f"stuck: {waiting}, running {running}, {[books(end) for end in self.ends]}, {self.line.lives}"

    def check_end(self) -> None:
        assert self.pair.client.lost
        assert self.pair.server.lost
        for work, task in self.tasks.items():
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(
                error, RPCError | sockrpc.ConnectionLost | sockrpc.ConnectionClosed
            ):
                raise error
            self.check_outcome(work)
        for work in self.works.values():
            assert not work.running, f"{work} never ended"
            assert work.cancels <= 1, f"{work} was cancelled {work.cancels} times"
        assert live_entries() == self.entries_before
        assert not self.loop.live_timers, self.loop.live_timers

    def check_outcome(self, work: Work) -> None:
        if work.answer is not None:
            assert work.returned or work.responded, f"{work} has an answer"
            assert work.answer in (work.payload, b""), f"{work} got another's answer"
        if work.outcome is Outcome.NOT_STARTED:
            assert not work.begun, f"{work} had begun"
        elif work.outcome is Outcome.COMPLETED:
            assert work.returned or work.responded, f"{work} had not returned"
        elif work.outcome is Outcome.PARTIAL:
            assert work.begun, f"{work} had not begun"


def open_gate(gate: asyncio.Future[None]) -> None:
    if not gate.done():
        gate.set_result(None)
