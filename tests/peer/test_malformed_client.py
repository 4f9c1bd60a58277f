"""Malformed input, as a client receives it: its calls fail with ProtocolError, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import NamedTuple

import pytest

import sockrpc
from tests.kit.raw_server import RawServer, notification, response
from tests.kit.support import (
    BINARY,
    CLOSE,
    CONTINUATION,
    DELIVERIES,
    PING,
    PONG,
    TEXT,
    deliver,
    frame,
    started,
    until,
)

pytestmark = pytest.mark.newest

VECTORS = json.loads(Path(__file__).parents[1].joinpath("vectors.json").read_text("utf-8"))
MAX_MESSAGE_BYTES = 200


class Fault(NamedTuple):
    """What is wrong, the bytes, and what they are to be closed with."""

    what: str
    data: bytes
    code: int
    reason: str

    def __str__(self) -> str:
        return self.what


def plain(opcode: int, payload: bytes = b"", *, final: bool = True, reserved: int = 0) -> bytes:
    """A server's frame: not masked."""
    return frame(opcode, payload, final=final, masked=False, reserved=reserved)


FAULTS = [
    Fault("masked", frame(BINARY, b"\x01\x00"), 1002, "masked"),
    *(
        Fault(f"reserved bit {bit}", plain(BINARY, b"\x01\x00", reserved=bit), 1002, "reserved bit")
        for bit in (1, 2, 4)
    ),
    *(
        Fault(f"reserved opcode {opcode}", plain(opcode), 1002, "reserved opcode")
        for opcode in (3, 7, 11, 15)
    ),
    Fault("a ping of 126 bytes", plain(PING, bytes(126)), 1002, "too long"),
    Fault("a fragmented ping", plain(PING, final=False), 1002, "fragmented"),
    Fault("a continuation of nothing", plain(CONTINUATION, b"x"), 1002, "continuation"),
    Fault("a message within a message", plain(BINARY, b"\x01", final=False) + plain(BINARY), 1002, "inside"),
    Fault("a close frame of one byte", plain(CLOSE, b"\x03"), 1002, "one byte"),
    Fault("close code 1006", plain(CLOSE, b"\x03\xee"), 1002, "close code"),
    Fault("a close reason that is not UTF-8", plain(CLOSE, b"\x03\xe8\xff"), 1007, "UTF-8"),
    Fault("a text message", plain(TEXT, b"\x01\x00"), 1003, "text"),
    Fault("a text message that is not UTF-8", plain(TEXT, b"\xc3("), 1007, "UTF-8"),
    Fault("a message over the limit", plain(BINARY, bytes(MAX_MESSAGE_BYTES + 1)), 1009, "200 bytes"),
    Fault(
        "fragments over the limit",
        plain(BINARY, bytes(MAX_MESSAGE_BYTES), final=False) + plain(CONTINUATION, b"x"),
        1009,
        "200 bytes",
    ),
    *(
        Fault(each["meaning"], plain(BINARY, bytes.fromhex(each["hex"])), 1002, each["reason"])
        for each in VECTORS["invalid"]
        if each["receiver"] == "client"
    ),
]


@pytest.mark.parametrize("how", DELIVERIES)
@pytest.mark.parametrize("fault", FAULTS, ids=str)
async def test_a_fault_fails_the_calls_and_iterators_of_its_connection_and_no_other(
    fault: Fault, how: str
) -> None:
    async with RawServer() as server:
        client, raw = await server.client(max_message_bytes=MAX_MESSAGE_BYTES)
        other, other_raw = await server.client()
        answered = await started(client.call("answered"))
        pending = await started(client.call("pending"))
        undisturbed = await started(other.call("pending"))
        payloads = client.on("event")
        for _ in range(2):
            await raw.request()
        await deliver(
            raw,
            response(1, b"before")
            + notification("event", b"before too")
            + fault.data
            + response(2, b"after")
            + notification("event", b"after too"),
            how,
        )
        assert await raw.wait(answered) == b"before"
        with pytest.raises(sockrpc.ProtocolError) as raised:
            await raw.wait(pending)
        assert raised.value.code == fault.code
        assert fault.reason in raised.value.reason
        assert await anext(payloads) == b"before too"
        with pytest.raises(sockrpc.ProtocolError):
            await anext(payloads)
        with pytest.raises(sockrpc.ProtocolError):
            await client.call("late")
        with pytest.raises(sockrpc.ProtocolError):
            await client.notify("late")
        with pytest.raises(sockrpc.ProtocolError):
            client.on("late")
        assert client.status() == ([], [])

        assert await raw.closing() == (fault.code, raised.value.reason)
        assert await raw.nothing_more()
        await raw.finish()
        await raw.wait(client.wait_closed())

        await other_raw.send(plain(PING, b"are you there?"), response(1, b"fine"))
        assert await raw.wait(undisturbed) == b"fine"
        await other_raw.request()
        assert await other_raw.receive() == (PONG, b"are you there?")
        await other_raw.finish()
        await raw.wait(other.close())


async def test_a_fault_in_the_same_segment_as_the_answer_to_the_opening_request() -> None:
    async with RawServer() as server:
        connecting = await started(sockrpc.connect(server.uri))
        raw = await server.accept(then=plain(TEXT, b"hello"))
        client = await raw.wait(connecting)
        with pytest.raises(sockrpc.ProtocolError, match="1003"):
            await client.call("anything")
        assert (await raw.closing())[0] == 1003
        await raw.finish()
        await raw.wait(client.wait_closed())


@pytest.mark.parametrize("how", DELIVERIES)
async def test_what_stands_after_the_server_s_close_frame_is_ignored(how: str) -> None:
    async with RawServer() as server:
        client, raw = await server.client()
        payloads = client.on("event")
        pending = await started(client.call("pending"))
        await raw.request()
        await deliver(
            raw,
            notification("event", b"before")
            + plain(CLOSE, b"\x03\xf5later")
            + notification("event", b"after")
            + response(1, b"after")
            + plain(TEXT, b"garbage"),
            how,
        )
        with pytest.raises(sockrpc.ConnectionLost) as raised:
            await raw.wait(pending)
        assert (raised.value.code, raised.value.reason) == (1013, "later")
        assert await anext(payloads) == b"before"
        with pytest.raises(sockrpc.ConnectionLost):
            await anext(payloads)
        assert await raw.closing() == (1013, "")
        await raw.finish()
        await raw.wait(client.wait_closed())


async def test_an_answer_that_nobody_asked_for_is_dropped() -> None:
    async with RawServer() as server:
        client, raw = await server.client()
        await raw.send(response(0, b""), response(1, b"early"), response(4294967295, b""))
        await raw.synchronize()
        waiting = await started(client.call("echo"))
        await raw.request()
        assert not waiting.done()
        await raw.send(response(1, b"right"), response(1, b"twice"))
        assert await raw.wait(waiting) == b"right"
        await raw.finish()
        await raw.wait(client.wait_closed())


async def test_an_event_that_nobody_listens_to_is_dropped() -> None:
    async with RawServer() as server:
        client, raw = await server.client()
        payloads = client.on("heard")
        await raw.send(notification("unheard"), notification(""), notification("heard", b"x"))
        assert await raw.wait(anext(payloads)) == b"x"
        await raw.finish()
        await raw.wait(client.wait_closed())


async def test_garbage_instead_of_the_answer_to_our_close_frame_just_ends_it() -> None:
    async with RawServer() as server:
        client, raw = await server.client()
        payloads = client.on("event")
        closing = asyncio.ensure_future(client.close(1000, "enough"))
        assert await raw.closing() == (1000, "enough")
        await raw.send(notification("event", b"late"), plain(15, b"garbage"))
        await raw.wait(closing)
        assert [each async for each in payloads] == []


async def test_a_server_that_ignores_the_close_frame_is_cut_after_close_timeout() -> None:
    loop = asyncio.get_running_loop()
    async with RawServer() as server:
        client, raw = await server.client(close_timeout=0.2)
        pending = await started(client.call("pending"))
        await raw.request()
        began = loop.time()
        await raw.send(plain(BINARY))
        assert (await raw.closing())[0] == 1002
        await raw.wait(client.wait_closed())
        assert loop.time() - began > 0.19
        await until(pending.done)
        assert isinstance(pending.exception(), sockrpc.ProtocolError)


@pytest.mark.parametrize("who", ["client", "server"])
async def test_no_request_follows_our_close_frame(who: str) -> None:
    async with RawServer() as server:
        client, raw = await server.client()
        # The first is written at once, the others at the end of the iteration in which they were made.
        calls = [asyncio.ensure_future(client.call("work", str(n))) for n in range(3)]
        closing = None
        if who == "client":
            closing = asyncio.ensure_future(client.close(1000, "enough"))
        else:
            await raw.send(plain(CLOSE, b"\x03\xe8"))
        while (received := await raw.receive())[0] == BINARY:
            pass
        assert received[0] == CLOSE
        # RFC 6455 5.5.1; it waits for the server to close TCP.
        raw.writer.write_eof()
        assert await raw.nothing_more()
        for call in calls:
            with pytest.raises((sockrpc.ConnectionClosed, sockrpc.ConnectionLost)):
                await raw.wait(call)
        await raw.finish()
        await raw.wait(client.wait_closed())
        if closing is not None:
            await closing
