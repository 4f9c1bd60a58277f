"""What handlers and hooks of a tortured server do: a small language in paths and payloads.

A payload is a key of eight characters, a space, and operations with commas between them; each is a letter
and an argument. The answer of a call that ends with "=N" is its key and N zeros.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import contextvars
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

import sockrpc
from tests.kit.inside import has_ended, is_socket_form, members

KEY = 8
VISITOR: contextvars.ContextVar[str] = contextvars.ContextVar("VISITOR", default="")


class Custom(BaseException):
    """What no handler should raise, and some do."""


class Proxy:
    """As werkzeug.LocalProxy outside of a request: it raises when it is looked at."""

    @property
    def __class__(self) -> type:  # type: ignore[override]
        raise RuntimeError("working outside of request context")


class OddBytes(bytes):
    def __bytes__(self) -> bytes:
        raise RuntimeError("these bytes are none")


ERRORS: dict[str, type[BaseException]] = {
    "A": StopAsyncIteration,
    "B": Custom,
    "C": asyncio.CancelledError,
    "G": GeneratorExit,
    "I": StopIteration,
    "M": MemoryError,
    "T": TimeoutError,
    "V": ValueError,
}


# What a tame world leaves out, to look for what is behind the faults that these find.
ODD = {"xB", "xG", "vp", "vb"}


def odd_value(kind: str) -> Any:
    released = memoryview(b"abc")
    released.release()
    values: dict[str, Any] = {
        "p": Proxy(),
        "b": OddBytes(b"x"),
        "i": 5,
        "m": memoryview(b"abcdef")[::2],
        "r": released,
        "s": "\udc80",
    }
    return values[kind]


class World:
    """What the handlers of one round share, and what they have seen go wrong."""

    def __init__(self, *, tame: bool = False) -> None:
        self.tame = tame
        self.stops = 0
        self.room = sockrpc.Room()
        self.faults: collections.Counter[str] = collections.Counter()
        self.examples: dict[str, str] = {}
        self.starts: collections.Counter[str] = collections.Counter()
        self.own_cancels: set[str] = set()
        self.stopping = False
        self.tasks: set[asyncio.Task[Any]] = set()
        self.servers: list[sockrpc.Server] = []

    def fault(self, kind: str, example: object = "") -> None:
        self.faults[kind] += 1
        self.examples.setdefault(kind, str(example))

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


def drive(coroutine: Coroutine[Any, Any, Any]) -> None:
    """The first step of a coroutine, at once, from wherever we are; it waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration:
        pass
    else:
        coroutine.close()


def number(argument: str, default: int = 0) -> int:
    return int(argument) if argument else default


class Act:
    """One run of a program for one call, notification or socket."""

    def __init__(self, world: World, subject: Any, payload: bytes) -> None:
        self.world = world
        self.subject = subject
        self.socket: sockrpc.Socket = subject if isinstance(subject, sockrpc.Socket) else subject.socket
        self.call: Any = subject if isinstance(subject, sockrpc.Call) else None
        self.payload = payload
        self.key = payload[:KEY].decode("ascii", "replace")
        program = payload[KEY + 1 :].partition(b" ")[0].decode("ascii", "replace")
        self.program = [(op[0], op[1:]) for op in program.split(",") if op and not (world.tame and op in ODD)]
        self.undone: collections.Counter[int] = collections.Counter()

    # What a plain function can do

    def now(self, op: str, argument: str) -> None:
        getattr(self, f"now_{op}")(argument)

    def now_n(self, argument: str) -> None:
        self.socket.notify_nowait("note", bytes(number(argument)))

    def now_b(self, argument: str) -> None:
        self.world.room.broadcast("news", bytes(number(argument)))

    def now_j(self, argument: str) -> None:
        self.world.room.join(self.socket)

    def now_l(self, argument: str) -> None:
        self.world.room.leave(self.socket)

    def now_c(self, argument: str) -> None:
        drive(self.socket.close(number(argument, 1000), "by its own handler"))

    def now_q(self, argument: str) -> None:
        for other in members(self.world.room)[: number(argument, 1)]:
            drive(other.close(3000, "by another's handler"))

    def now_z(self, argument: str) -> None:
        until = time.perf_counter() + number(argument, 1) / 1e4
        while time.perf_counter() < until:
            pass

    def now_x(self, argument: str) -> None:
        raise ERRORS[argument](self.key)

    def now_d(self, argument: str) -> None:
        repr(self.subject), repr(self.socket), self.socket.in_flight, self.socket.remote_address
        for server in self.world.servers:
            server.statistics()
            repr(server.connections)

    def now_u(self, argument: str) -> None:
        if isinstance(self.subject, (sockrpc.Call, sockrpc.Notification)):
            # What a hook sets is for the handlers, and there is one that does.
            VISITOR.set(self.key)

    def now_h(self, argument: str) -> None:
        """Hooks: 0 plain, 1 waits, 2 fails, 3 raises what is no Exception, 4 registers another, 5 closes."""
        if self.call is not None:
            n = len(self.undone)
            self.undone[n] = 0
            plain = {"0": self.undo, "2": self.undo_fails, "3": self.undo_breaks, "4": self.undo_again}
            self.call.on_abort(plain.get(argument) or getattr(self, f"undo_{argument}"), n)

    def undo(self, n: int) -> None:
        self.undone[n] += 1
        if self.undone[n] > 1:
            self.world.fault("an undo hook ran twice", self.payload)
        if not self.call.is_reset:
            self.world.fault("an undo hook ran for a call that was not aborted", self.payload)

    def undo_fails(self, n: int) -> None:
        self.undo(n)
        raise ValueError(self.key)

    def undo_breaks(self, n: int) -> None:
        self.undo(n)
        raise Custom(self.key)

    def undo_again(self, n: int) -> None:
        self.undo(n)
        self.now_h("0")

    async def undo_1(self, n: int) -> None:
        self.undo(n)
        await asyncio.sleep(0.003)

    async def undo_5(self, n: int) -> None:
        self.undo(n)
        await self.socket.close()

    def now_L(self, argument: str) -> None:
        if self.call is not None:
            self.world.spawn(self.respond_late(number(argument)))

    async def respond_late(self, milliseconds: int) -> None:
        await asyncio.sleep(milliseconds / 1000)
        with contextlib.suppress(sockrpc.UsageError):
            await self.call.respond(self.answer(0))

    def now_S(self, argument: str) -> None:
        if self.call is not None:
            with contextlib.suppress(sockrpc.UsageError):
                self.call.spawn_and_abort_on_reset(self.child(argument))

    async def child(self, argument: str) -> None:
        """A digit of milliseconds, and what then: r respond, x raise, k swallow a cancel, c close."""
        try:
            await asyncio.sleep(number(argument[:1]) / 1000)
        except asyncio.CancelledError:
            if "k" not in argument:
                raise
        if "r" in argument:
            with contextlib.suppress(sockrpc.UsageError):
                await self.call.respond(self.answer(0))
        if "c" in argument:
            await self.socket.close()
        if "x" in argument:
            raise Custom(self.key)

    # What a coroutine can do

    async def then(self, op: str, argument: str) -> None:
        later: Callable[[str], Coroutine[Any, Any, None]] | None = getattr(self, f"then_{op}", None)
        if later is None:
            self.now(op, argument)
        else:
            await later(argument)

    async def then_s(self, argument: str) -> None:
        await asyncio.sleep(number(argument) / 1000)

    async def then_y(self, argument: str) -> None:
        for _ in range(number(argument, 1)):
            await asyncio.sleep(0)

    async def then_r(self, argument: str) -> None:
        if self.call is not None:
            with contextlib.suppress(sockrpc.UsageError):
                await self.call.respond(self.answer(number(argument)))

    async def then_N(self, argument: str) -> None:
        with contextlib.suppress(sockrpc.ConnectionLost, sockrpc.ConnectionClosed, sockrpc.UsageError):
            await self.socket.notify("note", bytes(number(argument)))

    async def then_a(self, argument: str) -> None:
        if self.call is None:
            return
        with contextlib.suppress(sockrpc.UsageError, Custom):
            await self.call.abort_on_reset(self.child(argument))

    async def then_w(self, argument: str) -> None:
        if self.call is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.call.wait_reset(), number(argument, 1) / 1000)

    async def then_W(self, argument: str) -> None:
        if self.call is not None:
            await self.call.wait_reset()

    async def then_k(self, argument: str) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(number(argument) / 1000)
        await asyncio.sleep(0.002)

    async def then_t(self, argument: str) -> None:
        try:
            async with asyncio.timeout(0.001):
                await asyncio.sleep(number(argument, 20) / 1000)
        except TimeoutError:
            pass

    async def then_T(self, argument: str) -> None:
        async with asyncio.TaskGroup() as group:
            for n in range(number(argument, 2)):
                group.create_task(asyncio.sleep(n / 1000))

    async def then_o(self, argument: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.world.own_cancels.add(self.key)
        task.cancel()
        await asyncio.sleep(0)

    async def then_X(self, argument: str) -> None:
        await self.socket.close()

    # The whole

    def answer(self, size: int) -> bytes:
        return self.payload[:KEY] + bytes(size)

    def begin(self) -> None:
        if self.call is not None:
            self.world.starts[self.key] += 1
            if self.world.starts[self.key] > 1:
                self.world.fault("a handler started twice", self.payload)
        if not is_socket_form(self.socket) and not self.world.tame:
            seen, own = VISITOR.get(), getattr(self.socket.state, "visitor", "")
            if seen not in (own, ""):
                self.world.fault(
                    "a handler sees a context variable of another", f"{seen!r} in {self.payload!r}"
                )
            elif seen != own:
                self.world.fault(
                    "a handler does not see what on_connect has set", f"{own!r} in {self.payload!r}"
                )

    def run(self) -> Any:
        self.begin()
        for op, argument in self.program:
            if op == "=":
                return self.answer(number(argument))
            if op == "v":
                return odd_value(argument)
            if hasattr(self, f"now_{op}"):
                self.now(op, argument)
            if self.call is not None and op == "s":
                # Only threads have these.
                time.sleep(number(argument) / 1000)
                self.call.raise_if_reset()
        return None

    async def run_async(self) -> Any:
        self.begin()
        try:
            for op, argument in self.program:
                if op == "=":
                    return self.answer(number(argument))
                if op == "v":
                    return odd_value(argument)
                await self.then(op, argument)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            if (
                self.call is not None
                and not self.call.is_reset
                and not has_ended(self.socket)
                and not self.world.stopping
                and self.key not in self.world.own_cancels
                and ("x", "C") not in self.program
                and not any(each in "SrLa" for each, _ in self.program)
                and not is_socket_form(self.socket)
            ):
                self.world.fault("a handler was cancelled though its call was not aborted", self.payload)
            raise
        return None


def chance_program(chance: random.Random, *, benign: bool, kind: str) -> str:
    """A program: a benign one ends by itself, soon, with an answer, and hurts nobody."""
    ops: list[str] = []
    plain = kind == "inline"
    mild = ["n", "n9", "z1", "z5", "d", "u", "h0", "h1", "h2", "h4", "j", "l"]
    waits = ["s1", "s5", "s20", "y", "y3", "N3", "a2", "w1", "t", "T2", "S1"]
    wild = [
        *["b10", "b5000", "n70000", "c", "c3001", "q", "L1", "L9", "h3", "h5", "S3r", "S2x", "S9k", "S1c"],
        *[f"x{each}" for each in ERRORS],
    ]
    wild_waits = ["r", "r100", "W", "k20", "o", "X", "N70000", "a5k", "a2x", "a9", "s200", "a1c", "a3r"]
    choices = mild if plain else mild + waits * 2
    if not benign:
        choices = choices + (wild if plain else wild + wild_waits)
    if kind == "thread":
        choices = ["s1", "s5", "s20", "z5"] if benign else ["s1", "s50", *(f"x{each}" for each in ERRORS)]
    ops += chance.choices(choices, k=chance.choice((0, 0, 1, 1, 2, 3, 5)))
    if benign:
        ops.append(f"={chance.choice((0, 0, 1, 10, 200, 3000, 40000))}")
    else:
        ops += chance.choices(
            ("=0", "=10", "=100000", "", "vp", "vb", "vi", "vm", "vr", "vs"), (6, 6, 1, 3, 1, 1, 1, 1, 1, 1)
        )
    return ",".join(op for op in ops if op)
