"""The outcome that a caller hears is true: it agrees with what the handler has done, however the two race.

Each call has an entry in a ledger, in which its handler notes that it has begun and that its effect has
taken place, and its undo hook that it was taken back. The caller looks at it when it hears the outcome.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator

import pytest

import sockrpc
from sockrpc import Outcome, RPCError
from tests.kit.support import V1, serving

CALLS = 1_700  # of each of the six forms, some 10,000 together
AT_ONCE = 24


class Entry:
    """What one call has done."""

    def __init__(self) -> None:
        self.begun = self.effects = self.running = 0
        self.hooked = False
        self.undone = 0
        self.outcome: Outcome | None = None

    def __repr__(self) -> str:
        return f"<begun {self.begun}, effects {self.effects}, hooked {self.hooked}, undone {self.undone}>"


class Ledger:
    """The entries of all calls, and handlers that write them."""

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.dice = random.Random(7)
        self.turns: dict[bytes, int] = {}

    def begin(self, call: sockrpc.Call) -> Entry:
        entry = self.entries[call.payload]
        entry.begun += 1
        if entry.hooked:
            call.on_abort(self.undo, entry)
        return entry

    @staticmethod
    def undo(entry: Entry) -> None:
        assert not entry.running
        entry.undone += 1

    async def coroutine(self, call: sockrpc.Call) -> bytes:
        entry = self.begin(call)
        entry.running += 1
        try:
            for _ in range(self.turns[call.payload]):
                await asyncio.sleep(0)
            entry.effects += 1
            return b"done"
        finally:
            entry.running -= 1

    async def committing(self, call: sockrpc.Call) -> bytes:
        entry = self.begin(call)
        for _ in range(self.turns[call.payload]):
            await asyncio.sleep(0)
        call.commit()
        for _ in range(2):
            await asyncio.sleep(0)
        entry.effects += 1
        return b"done"

    async def generator(self, call: sockrpc.Call) -> AsyncIterator[bytes]:
        entry = self.begin(call)
        entry.running += 1
        try:
            for _ in range(self.turns[call.payload]):
                yield bytes(20_000)
            await asyncio.sleep(0)
            entry.effects += 1
        except BaseException:
            await asyncio.sleep(0)
            raise
        finally:
            entry.running -= 1

    def plain(self, call: sockrpc.Call) -> bytes:
        entry = self.begin(call)
        entry.effects += 1
        return b"done"

    def thread(self, call: sockrpc.Call) -> bytes:
        entry = self.begin(call)
        entry.running += 1
        try:
            pause = threading.Event()
            for _ in range(self.turns[call.payload]):
                pause.wait(0.00005)
                call.raise_if_reset()
            entry.effects += 1
            return b"done"
        finally:
            entry.running -= 1

    def app(self) -> sockrpc.App:
        app = sockrpc.App()
        app.method("plain")(self.plain)
        app.method("coroutine")(self.coroutine)
        app.method("completing", run_to_completion=True)(self.coroutine)
        app.method("committing")(self.committing)
        app.method("generator")(self.generator)
        app.method("thread", thread=True)(self.thread)
        return app

    async def socket_form(self, socket: sockrpc.Socket) -> None:
        tasks = set()
        async for call in socket:
            assert isinstance(call, sockrpc.Call)
            task = asyncio.create_task(self.answer(call))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            del call

    async def answer(self, call: sockrpc.Call) -> None:
        entry = self.begin(call)
        entry.running += 1
        for _ in range(self.turns[call.payload]):
            await asyncio.sleep(0)
        if call.method == "looking" and call.is_reset:
            entry.running -= 1
            await call.respond(b"")
            return
        entry.effects += 1
        entry.running -= 1
        await call.respond(b"done")

    # Callers

    async def call(self, client: sockrpc.Client, method: str, number: int) -> Outcome:
        """Make a call, cancel it at some moment, and return the outcome."""
        key = b"%d" % number
        entry = self.entries[key] = Entry()
        entry.hooked = self.dice.random() < 0.3
        self.turns[key] = self.dice.randrange(8)
        if method == "generator":
            stream = client.stream(method, key)
            took = 0
            async for _ in stream:
                took += 1
                if took > self.turns[key] // 2:
                    break
            else:
                await asyncio.sleep(0)
            outcome = await stream.cancel()
        else:
            handle = client.start(method, key)
            for _ in range(self.dice.choice((0, 0, 1, 2, 3, 4, 5, 6, 9, 14))):
                await asyncio.sleep(0)
            outcome = await handle.cancel()
            (answer,) = await asyncio.gather(handle, return_exceptions=True)
            if isinstance(answer, RPCError):
                assert answer.code is sockrpc.Code.CANCELLED
            else:
                assert (answer, outcome) == (b"done", Outcome.COMPLETED)
        self.check(method, entry, outcome)
        entry.outcome = outcome
        return outcome

    @staticmethod
    def check(method: str, entry: Entry, outcome: Outcome) -> None:
        assert not entry.running, f"{method}: it was over before its work was: {entry}"
        if outcome is Outcome.NOT_STARTED:
            assert (entry.begun, entry.effects, entry.undone) == (0, 0, 0), f"{method}: {entry}"
        elif outcome is Outcome.COMPLETED:
            assert (entry.begun, entry.effects, entry.undone) == (1, 1, 0), f"{method}: {entry}"
        else:
            assert outcome is Outcome.PARTIAL, outcome
            assert entry.begun == 1, f"{method}: {entry}"
            assert entry.undone == entry.hooked, f"{method}: {entry}"
            assert not entry.effects or entry.undone, f"{method}: {entry}"

    async def race(self, client: sockrpc.Client, method: str) -> dict[Outcome, int]:
        """Make the calls, some at a time; return how many had each outcome."""
        numbers = iter(range(CALLS))
        outcomes: dict[Outcome, int] = {}

        async def some() -> None:
            for number in numbers:
                outcome = await self.call(client, method, number)
                outcomes[outcome] = outcomes.get(outcome, 0) + 1

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(some())
        # Work that had not started when its caller heard so has not started since.
        assert await client.call(method if method != "generator" else "plain", self.last()) == b"done"
        for entry in self.entries.values():
            if entry.outcome is not None:
                self.check(method, entry, entry.outcome)
        return outcomes

    def last(self) -> bytes:
        self.entries.setdefault(b"last", Entry())
        self.turns[b"last"] = 0
        return b"last"


EXPECTED = {
    "plain": {Outcome.NOT_STARTED, Outcome.COMPLETED},
    "coroutine": {Outcome.NOT_STARTED, Outcome.PARTIAL, Outcome.COMPLETED},
    "completing": {Outcome.NOT_STARTED, Outcome.COMPLETED},
    "committing": {Outcome.NOT_STARTED, Outcome.PARTIAL, Outcome.COMPLETED},
    "generator": {Outcome.PARTIAL, Outcome.COMPLETED},
    "thread": {Outcome.NOT_STARTED, Outcome.PARTIAL, Outcome.COMPLETED},
}


@pytest.mark.parametrize("method", list(EXPECTED))
async def test_the_outcome_of_a_cancel_is_what_has_become_of_the_work(method: str) -> None:
    ledger = Ledger()
    # Few may run, so that some are cancelled while they wait.
    async with (
        serving(ledger.app(), max_in_flight=8, max_threads=3) as here,
        here.connect(protocols=V1, window_bytes=65_536) as client,
    ):
        outcomes = await ledger.race(client, method)
    assert sum(outcomes.values()) == CALLS
    assert set(outcomes) <= EXPECTED[method], outcomes
    assert Outcome.COMPLETED in outcomes, outcomes
    if method not in ("plain", "completing"):
        assert Outcome.PARTIAL in outcomes, outcomes


@pytest.mark.parametrize("method", ["unaware", "looking"])
async def test_the_outcome_of_a_cancel_in_the_socket_form(method: str) -> None:
    ledger = Ledger()
    async with serving(ledger.socket_form) as here, here.connect(protocols=V1) as client:
        outcomes = await ledger.race(client, method)
    assert sum(outcomes.values()) == CALLS
    assert Outcome.COMPLETED in outcomes, outcomes
