"""Malformed input, as a server receives it: the code, the reason, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import sockrpc
from tests.kit.inside import transport_of
from tests.kit.support import (
    BINARY,
    CLOSE,
    CONTINUATION,
    DELIVERIES,
    PING,
    TEXT,
    deliver,
    frame,
    notify,
    request,
    reset,
    serving,
    until,
)

pytestmark = pytest.mark.newest

VECTORS = json.loads(Path(__file__).parents[1].joinpath("vectors.json").read_text("utf-8"))
MAX_MESSAGE_BYTES = 200
# The id of the call that is in flight on every connection while the fault arrives.
WAITING = 1000


class Fault(NamedTuple):
    """What is wrong, the bytes, and what they are to be closed with."""

    what: str
    data: bytes
    code: int
    reason: str

    def __str__(self) -> str:
        return self.what


FAULTS = [
    Fault("not masked", frame(BINARY, b"\x03\x00\x00\x00\x01", masked=False), 1002, "unmasked"),
    Fault("a ping that is not masked", frame(PING, b"x", masked=False), 1002, "unmasked"),
    *(
        Fault(
            f"reserved bit {bit}", frame(BINARY, b"\x03\x00\x00\x00\x01", reserved=bit), 1002, "reserved bit"
        )
        for bit in (1, 2, 4)
    ),
    *(
        Fault(f"reserved opcode {opcode}", frame(opcode, b""), 1002, "reserved opcode")
        for opcode in (3, 7, 11, 15)
    ),
    Fault("a ping of 126 bytes", frame(PING, b"x" * 126), 1002, "too long"),
    Fault("a close frame of 126 bytes", frame(CLOSE, b"\x03\xe8" + b"x" * 124), 1002, "too long"),
    Fault("a fragmented ping", frame(PING, b"x", final=False), 1002, "fragmented"),
    Fault("a continuation of nothing", frame(CONTINUATION, b"x"), 1002, "continuation"),
    Fault(
        "a message within a message",
        frame(BINARY, b"\x03\x00", final=False) + frame(BINARY, b"\x00"),
        1002,
        "inside",
    ),
    Fault("a close frame of one byte", frame(CLOSE, b"\x03"), 1002, "one byte"),
    *(
        Fault(f"close code {code}", frame(CLOSE, code.to_bytes(2, "big")), 1002, "close code")
        for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000)
    ),
    Fault("a close reason that is not UTF-8", frame(CLOSE, b"\x03\xe8\xff"), 1007, "UTF-8"),
    Fault("a text message", frame(TEXT, b"\x03\x00\x00\x00\x01"), 1003, "text"),
    Fault("an empty text message", frame(TEXT), 1003, "text"),
    Fault("a text message in fragments", frame(TEXT, b"a", final=False) + frame(0, b"b"), 1003, "text"),
    Fault("a text message that is not UTF-8", frame(TEXT, b"\xc3("), 1007, "UTF-8"),
    Fault(
        "text that is UTF-8 but for its last fragment",
        frame(TEXT, b"a\xc3", final=False) + frame(CONTINUATION, b"\xa9\xc3"),
        1007,
        "UTF-8",
    ),
    Fault("a message over the limit", frame(BINARY, bytes(MAX_MESSAGE_BYTES + 1)), 1009, "200 bytes"),
    Fault(
        "fragments over the limit",
        frame(BINARY, bytes(MAX_MESSAGE_BYTES), final=False) + frame(CONTINUATION, b"x"),
        1009,
        "200 bytes",
    ),
    Fault("a length of 64 bits", b"\x82\xff" + b"\xff" * 8 + bytes(4), 1009, "200 bytes"),
    *(
        Fault(each["meaning"], frame(BINARY, bytes.fromhex(each["hex"])), 1002, each["reason"])
        for each in VECTORS["invalid"]
        if each["receiver"] == "server"
    ),
    Fault(
        "an unknown opcode in fragments",
        frame(BINARY, b"\x09", final=False) + frame(CONTINUATION, b"\x00"),
        1002,
        "opcode",
    ),
    Fault("an id in use", request(WAITING, "wait"), 1002, "id in use"),
    Fault("an id in use, by another method", request(WAITING, "echo"), 1002, "id in use"),
    Fault("an id in use, by an unknown method", request(WAITING, "nobody"), 1002, "id in use"),
]


class Recorder:
    """An app that records what reaches it."""

    def __init__(self) -> None:
        self.app = sockrpc.App()
        self.served: list[bytes] = []
        self.running: list[sockrpc.Call] = []
        self.aborted: list[str | None] = []
        self.disconnected: list[sockrpc.Socket] = []
        self.release = asyncio.Event()
        self.app.method("wait")(self.wait)
        self.app.method("echo")(self.echo)
        self.app.on("event")(self.event)
        self.app.on_disconnect(self.disconnected.append)

    async def wait(self, call: sockrpc.Call) -> str:
        self.running.append(call)
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.aborted.append(call.abort_reason)
            raise
        return "done"

    def echo(self, call: sockrpc.Call) -> bytes:
        self.served.append(call.payload)
        return call.payload

    def event(self, notification: sockrpc.Notification) -> None:
        self.served.append(notification.payload)


@pytest.mark.parametrize("how", DELIVERIES)
@pytest.mark.parametrize("fault", FAULTS, ids=str)
async def test_a_fault_closes_its_connection_and_no_other(fault: Fault, how: str) -> None:
    there = Recorder()
    async with (
        serving(there.app, max_message_bytes=MAX_MESSAGE_BYTES) as here,
        await here.raw() as raw,
        await here.raw() as other,
    ):
        await raw.send(request(WAITING, "wait"))
        await other.send(request(WAITING, "wait"))
        await until(lambda: len(there.running) == 2)
        await deliver(
            raw,
            request(2, "echo", b"before")
            + notify("event", b"before too")
            + fault.data
            + request(3, "echo", b"after")
            + notify("event", b"after too")
            + frame(PING, b"after"),
            how,
        )
        await other.synchronize()
        assert await raw.answer() == (2, b"before")
        code, reason = await raw.closing()
        assert code == fault.code
        assert fault.reason in reason
        assert await raw.nothing_more()
        await until(lambda: there.aborted)
        assert there.aborted == ["lost"]
        assert len(there.disconnected) == 1

        await other.synchronize()
        there.release.set()
        assert await other.answer() == (WAITING, b"done")
        await raw.close()
        await until(lambda: here.server.statistics().connections == 1)
        statistics = here.server.statistics()
        assert (statistics.calls_in_flight, statistics.calls_running) == (0, 0)
        assert (statistics.calls_answered, statistics.calls_lost) == (2, 1)
    assert there.served == [b"before", b"before too"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio has eager tasks since 3.12")
async def test_a_coroutine_that_never_waits_answers_before_the_fault_behind_it() -> None:
    app = sockrpc.App()

    @app.method("echo")
    async def echo(call: sockrpc.Call) -> bytes:
        return call.payload

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "echo", b"one"), request(2, "echo", b"two"), frame(BINARY, b"\xff"))
        assert await raw.answer() == (1, b"one")
        assert await raw.answer() == (2, b"two")
        assert (await raw.closing())[0] == 1002


async def test_a_fault_in_the_same_segment_as_the_opening_request() -> None:
    there = Recorder()
    async with serving(there.app) as here:
        then = request(2, "echo", b"before") + frame(BINARY) + request(3, "echo", b"after")
        async with await here.raw(then=then) as raw:
            assert await raw.answer() == (2, b"before")
            assert await raw.closing() == (1002, "empty message")
            assert await raw.nothing_more()
    assert there.served == [b"before"]


@pytest.mark.parametrize("how", DELIVERIES)
async def test_what_stands_after_a_close_frame_is_ignored(how: str) -> None:
    there = Recorder()
    async with serving(there.app) as here, await here.raw() as raw:
        await raw.send(request(WAITING, "wait"))
        await until(lambda: there.running)
        before = request(2, "echo", b"before") + frame(CLOSE, b"\x03\xe8bye")
        after = request(3, "echo", b"after") + notify("event", b"after too") + frame(BINARY)
        await deliver(raw, before[:-1], how)
        # In one read: the answer to a close frame is the end of TCP.
        await raw.send(before[-1:] + after)
        assert await raw.answer() == (2, b"before")
        # RFC 6455 5.5.1: the code is echoed.
        assert await raw.closing() == (1000, "")
        assert await raw.nothing_more()
        await until(lambda: there.aborted)
    assert there.aborted == ["lost"]
    assert there.served == [b"before"]


async def test_an_empty_close_frame_is_answered_by_an_empty_one() -> None:
    async with serving(sockrpc.App()) as here, await here.raw() as raw:
        await raw.send(frame(CLOSE))
        assert await raw.receive() == (CLOSE, b"")
        assert await raw.nothing_more()


async def test_a_call_that_still_waits_when_the_fault_comes_never_starts() -> None:
    there = Recorder()
    async with serving(there.app, max_in_flight=1) as here, await here.raw() as raw:
        await raw.send(request(1, "wait"), request(2, "echo", b"waiting"), frame(BINARY))
        assert (await raw.closing())[0] == 1002
        await until(lambda: here.server.statistics().calls_lost == 2)
    assert there.served == []


async def test_a_notification_that_waits_for_on_connect_is_dropped_with_a_broken_connection() -> None:
    app = sockrpc.App()
    heard: list[bytes] = []
    connecting = asyncio.Event()

    @app.on_connect
    async def connected(socket: sockrpc.Socket) -> None:
        connecting.set()
        await asyncio.Event().wait()

    @app.on("event")
    def event(notification: sockrpc.Notification) -> None:
        heard.append(notification.payload)

    async with serving(app) as here:
        async with await here.raw() as raw:
            await connecting.wait()
            await raw.send(notify("event", b"early"), frame(BINARY))
            assert (await raw.closing())[0] == 1002
        await until(lambda: not here.server.connections)
        assert here.server.statistics().procedures_waiting == 0
    assert heard == []


async def test_garbage_instead_of_the_answer_to_our_close_frame_just_ends_it() -> None:
    there = Recorder()
    async with serving(there.app) as here, await here.raw() as raw:
        closing = asyncio.ensure_future(here.only_socket().close(1000, "enough"))
        assert await raw.closing() == (1000, "enough")
        await raw.send(request(1, "echo", b"late"), frame(15, b"garbage"))
        assert await raw.nothing_more()
        await raw.wait(closing)
    assert there.served == []


async def test_a_peer_that_ignores_the_close_frame_is_cut_after_close_timeout() -> None:
    loop = asyncio.get_running_loop()
    async with serving(sockrpc.App(), close_timeout=0.2) as here, await here.raw() as raw:
        socket = here.only_socket()
        began = loop.time()
        await raw.send(frame(BINARY))
        assert (await raw.closing())[0] == 1002
        # The peer neither answers nor closes.
        await until(lambda: transport_of(socket) is None)
        assert loop.time() - began > 0.19


async def test_a_reset_of_an_id_that_is_not_in_flight_is_no_fault() -> None:
    there = Recorder()
    async with serving(there.app) as here, await here.raw() as raw:
        await raw.send(reset(0), reset(7), request(7, "echo", b"x"), reset(7), reset(7))
        assert await raw.answer() == (7, b"x")
        await raw.synchronize()


async def test_an_id_is_free_again_after_its_answer_and_after_its_reset() -> None:
    there = Recorder()
    async with serving(there.app) as here, await here.raw() as raw:
        await raw.send(request(4294967295, "echo", b"1"), request(4294967295, "echo", b"2"))
        await raw.send(request(0, "wait"), reset(0), request(0, "echo", b"3"))
        assert [await raw.answer() for _ in range(3)] == [
            (4294967295, b"1"),
            (4294967295, b"2"),
            (0, b"3"),
        ]
        await raw.synchronize()
