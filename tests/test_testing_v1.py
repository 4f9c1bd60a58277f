"""`sockrpc.testing` in sockrpc.v1: the protocols, credit that is held, frames that take their time."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Iterator

import pytest

import sockrpc
import sockrpc.dial.reconnecting
from sockrpc import Code, Outcome, RPCError, Tracked, testing
from sockrpc.testing.fixtures import InMemory, in_memory
from sockrpc.testing.line import Frames, is_credit
from tests.kit.clock import Clock
from tests.kit.support import PATIENCE, frame, started

__all__ = ["in_memory"]

V0 = (sockrpc.SUBPROTOCOL,)
ITEM = bytes(1000)
# An item costs 64 bytes more; the window is a client's of 256 KiB, and the balance may go below 0 once.
ITEMS_OF_A_WINDOW = -(-256 * 1024 // (len(ITEM) + 64))


class Streams:
    """An app with a method for each way that items go; `sent` counts those that a handler has sent."""

    def __init__(self) -> None:
        self.sent = 0
        self.taken = 0
        self.ended = 0
        self.app = sockrpc.App()
        self.app.method("echo")(lambda call: call.payload)
        self.app.method("fail")(self.fail)
        self.app.method("down")(self.down)
        self.app.method("up")(self.up)
        self.app.method("ask")(self.ask)

    def fail(self, call: sockrpc.Call) -> None:
        if call.text == "bug":
            raise ZeroDivisionError("secret")
        raise RPCError(Code.NOT_FOUND, "no such thing")

    async def down(self, call: sockrpc.Call) -> AsyncIterator[bytes]:
        try:
            while self.sent < int(call.text):
                self.sent += 1
                yield ITEM
        finally:
            self.ended += 1

    async def up(self, call: sockrpc.Call) -> str:
        async for _ in call.items():
            self.taken += 1
        return str(self.taken)

    async def ask(self, call: sockrpc.Call) -> bytes:
        return await call.peer.call("confirm", call.payload)


# Protocols


async def test_it_speaks_v1_unless_the_test_says_otherwise() -> None:
    there = Streams()
    async with testing.connect(there.app) as client:
        assert client.subprotocol == "sockrpc.v1"
        with pytest.raises(RPCError, match="no such thing") as raised:
            await client.call("fail")
        assert (raised.value.code, raised.value.outcome) == (Code.NOT_FOUND, Outcome.PARTIAL)
    async with testing.connect(there.app, protocols=V0) as client:
        assert client.subprotocol == sockrpc.SUBPROTOCOL
        assert await client.call("echo", "x") == b"x"
    async with testing.serve(there.app, protocols=V0) as server, server.connect() as client:
        assert client.subprotocol == sockrpc.SUBPROTOCOL
    async with (
        testing.serve(there.app) as server,
        server.connect() as one,
        server.connect(protocols=V0) as two,
    ):
        assert [one.subprotocol, two.subprotocol] == ["sockrpc.v1", sockrpc.SUBPROTOCOL]
        assert [await each.call("echo", "x") for each in (one, two)] == [b"x", b"x"]


async def test_the_server_calls_the_app_of_the_client() -> None:
    mine = sockrpc.App()
    mine.method("confirm")(lambda call: b"yes, " + call.payload)
    there = Streams()
    async with testing.connect(there.app, client_app=mine) as client:
        assert await client.call("ask", "really?") == b"yes, really?"
    async with testing.serve(there.app) as server, server.connect(app=mine) as client:
        assert await client.call("ask", "really?") == b"yes, really?"


async def test_metadata_goes_with_the_hello() -> None:
    there = Streams()

    @there.app.on_connect
    def enter(socket: sockrpc.Socket) -> None:
        if socket.metadata.text("authorization") != "me":
            raise RPCError(Code.UNAUTHENTICATED, "who?")

    async with testing.connect(there.app, metadata={"authorization": "me"}) as client:
        assert await client.call("echo", "x") == b"x"
    async with testing.serve(there.app) as server:
        async with server.connect(metadata=lambda: {"authorization": "me"}):
            pass
        with pytest.raises(RPCError, match="who"):
            await server.connect()


async def test_the_texts_of_bugs_are_sent_to_those_who_debug(caplog: pytest.LogCaptureFixture) -> None:
    there = Streams()
    for debug, text in ((False, "internal error"), (True, "secret")):
        async with testing.connect(there.app, debug=debug) as client:
            with pytest.raises(RPCError, match=text):
                await client.call("fail", "bug")


# Credit


async def test_without_credit_a_handler_sends_a_window_and_waits() -> None:
    there = Streams()
    async with testing.connect(there.app) as client:
        client.to_server.hold_credit()
        stream = client.stream("down", "1000")
        for _ in range(ITEMS_OF_A_WINDOW):
            assert await anext(stream) == ITEM
        step = await started(anext(stream))
        await client.settle()
        # The last one waits for credit.
        assert there.sent == ITEMS_OF_A_WINDOW + 1
        assert not step.done()
        assert client.to_server.held_credit >= 1
        assert client.to_server.held == 0
        # Everything else goes on meanwhile.
        assert await client.call("echo", "x") == b"x"

        client.to_server.release_credit()
        assert client.to_server.held_credit == 0
        assert await step == ITEM
        assert len([item async for item in stream]) == 1000 - ITEMS_OF_A_WINDOW - 1


async def test_an_abort_reaches_a_handler_that_waits_for_credit() -> None:
    there = Streams()
    async with testing.connect(there.app) as client:
        client.to_server.hold_credit()
        async with client.stream("down", "1000") as stream:
            await anext(stream)
            await client.settle()
            assert (there.ended, there.sent) == (0, ITEMS_OF_A_WINDOW + 1)
        await client.settle()
        assert there.ended == 1
        # Credit for a call that is over changes nothing.
        client.to_server.release()
        assert await client.call("echo", "x") == b"x"


async def test_without_credit_a_client_sends_a_window_and_waits() -> None:
    there = Streams()
    given = 0

    def items() -> Iterator[bytes]:
        nonlocal given
        for _ in range(1000):
            given += 1
            yield ITEM

    async with testing.connect(there.app) as client:
        client.to_client.hold_credit()
        call = await started(client.call("up", items=items()))
        await client.settle()
        window = -(-64 * 1024 // (len(ITEM) + 64))
        assert (given, there.taken) == (window + 1, window)
        client.to_client.release()
        assert await call == b"1000"


async def test_a_frame_that_has_begun_goes_before_credit_and_after_it_pieces_are_put_together() -> None:
    there = Streams()
    large = bytes(range(256)) * 4096
    async with testing.connect(there.app, max_message_bytes=4 * len(large)) as client:
        call = await started(client.call("echo", large))
        client.to_server.hold_credit()
        stream = client.stream("down", "1000")
        for _ in range(ITEMS_OF_A_WINDOW):
            await anext(stream)
        assert await call == large
        second = await started(client.call("echo", large))
        client.to_server.release_credit()
        assert len([item async for item in stream]) == 1000 - ITEMS_OF_A_WINDOW
        assert await second == large


@pytest.mark.parametrize("seed", range(50))
def test_frames_are_kept_back_whole_however_they_are_written(seed: int) -> None:
    chance = random.Random(seed)
    head = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
    payloads = [
        bytes([chance.choice([6, 8])]) + bytes(chance.choice([0, 8, 125, 200, 70_000])) for _ in range(20)
    ]
    written = [frame(2, payload, masked=chance.random() < 0.5) for payload in payloads]
    data = head + b"".join(written)
    frames = Frames()
    passed = bytearray()
    at = 0
    while at < len(data):
        size = chance.choice([1, 3, 20, 500, 200_000])
        passed += frames.add(data[at : at + size])
        at += size
        assert frames.passed == len(passed)
        if chance.random() < 0.2:
            frames.keeps_credit = True
        elif chance.random() < 0.2:
            passed += frames.take_kept()
    passed += frames.take_kept()
    # Whole frames, all of them, and only credit comes later than it was written.
    ends = [len(head), *frames.ends]
    whole = [bytes(passed[start:end]) for start, end in itertools.pairwise(ends)]
    assert (passed[: len(head)], len(passed)) == (head, ends[-1])
    assert sorted(whole) == sorted(written)
    assert [each for each in whole if not is_credit(each)] == [
        each for each in written if not is_credit(each)
    ]
    assert [each for each in whole if is_credit(each)] == [each for each in written if is_credit(each)]
    assert sum(map(is_credit, written)) == sum(payload[0] == 8 for payload in payloads)


# Time


async def test_what_is_delayed_comes_after_its_time_and_in_order() -> None:
    there = Streams()
    loop = asyncio.get_running_loop()
    async with testing.connect(there.app) as client:
        client.to_server.delay(0.05)
        began = loop.time()
        first = await started(client.call("echo", "1"))
        client.to_server.delay(0.0)
        # It does not overtake.
        second = await started(client.call("echo", "2"))
        await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
        # uvloop's clock has whole milliseconds.
        assert loop.time() - began >= 0.048
        assert first.done()
        assert await asyncio.gather(first, second) == [b"1", b"2"]
        client.to_client.delay(0.05)
        began = loop.time()
        assert await client.call("echo", "3") == b"3"
        assert loop.time() - began >= 0.048


async def test_settling_waits_for_what_is_delayed_and_not_for_what_is_held() -> None:
    there = Streams()
    async with testing.connect(there.app) as client, asyncio.timeout(PATIENCE):
        client.to_server.delay(0.03)
        client.to_client.delay(0.03)
        call = await started(client.call("echo", "1"))
        await client.settle()
        assert await call == b"1"
        client.to_server.hold()
        call = await started(client.call("echo", "2"))
        await client.settle()
        assert (call.done(), client.to_server.held) == (False, 1)
        assert client.to_server.deliver() == 1
        await client.settle()
        assert await call == b"2"
        # What is held has no time; what is lost has none either.
        client.to_server.hold()
        client.to_server.delay(3600.0)
        lost = await started(client.call("echo", "3"))
        await client.settle()
        client.to_server.release()
        client.lose()
        await client.settle()
        with pytest.raises(sockrpc.ConnectionLost):
            await lost


class ClockLoop(Clock, asyncio.SelectorEventLoop):
    pass


def test_time_is_that_of_the_loops_clock() -> None:
    async def test(clock: ClockLoop) -> None:
        async with testing.connect(Streams().app) as client:
            client.to_server.delay(5.0)
            call = await started(client.call("echo", "1"))
            for seconds in (0.0, 4.9):
                clock.advance(seconds)
                for _ in range(50):
                    await asyncio.sleep(0)
                assert not call.done()
            clock.advance(0.2)
            await client.settle()
            assert await call == b"1"
            client.to_server.delay(0.0)

    loop = ClockLoop()
    try:
        loop.run_until_complete(test(loop))
    finally:
        loop.close()


async def test_an_answer_that_takes_its_time_meets_the_deadline_of_its_caller() -> None:
    there = Streams()
    async with testing.connect(there.app) as client:
        client.to_client.delay(0.2)
        with pytest.raises(sockrpc.DeadlineExceeded):
            await client.call("echo", timeout=0.05)
        assert client.server.statistics().calls_answered == 1


# Loss


async def test_a_feed_goes_on_over_lost_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockrpc.dial.reconnecting, "FIRST_DELAY", 0.001)
    app = sockrpc.App()
    began: list[bytes | None] = []

    @app.method
    async def feed(call: sockrpc.Call) -> AsyncIterator[Tracked]:
        began.append(call.resume_from)
        for number in range(int(call.resume_from or 0) + 1, 7):
            yield Tracked(str(number), str(number).encode())
            if number % 2 == 0:
                await asyncio.sleep(3600)

    async with testing.serve(app) as server, server.connect().stream("feed") as stream:
        items = []
        while len(items) < 6:
            items.append(await anext(stream))
            if len(items) % 2 == 0:
                server.lose()
        assert items == [b"1", b"2", b"3", b"4", b"5", b"6"]
        assert began == [None, b"2", b"4"]


def test_a_plain_test_chooses_the_protocol(in_memory: InMemory) -> None:
    async def test() -> str:
        async with in_memory.connect(Streams().app, protocols=V0) as client:
            return client.subprotocol

    assert in_memory.run(test()) == sockrpc.SUBPROTOCOL
