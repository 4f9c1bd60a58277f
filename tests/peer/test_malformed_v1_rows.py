"""The engine's rows of faults in `sockrpc.v1`, over sockets: whole reasons, and others go on.

Each row of `_frames` has its frame here, and so has each cell of a call's tables that says 1002 or "ignore".
Frames that a read cuts at any of their bytes are in test_malformed_v1_cuts.py.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pytest

import sockrpc
from tests.kit.support import BINARY, DELIVERIES, RawClient, deliver, frame, serving
from tests.kit.v1_peer import (
    NESTED,
    SENDS,
    TAKES,
    TOP,
    TRACKED,
    V1,
    V1Peer,
    client_of,
    credit,
    end,
    entry,
    error,
    goaway,
    hear,
    hello,
    item,
    opened,
    ping,
    pong,
    request,
    reset,
    response,
    say,
    understood,
)

TEXT = b"message is not UTF-8"
SHORT_FIELDS = "frame too short for its fields"
SHORT_ID = "frame too short for its id"
PARSE = "metadata that does not parse"
# Messages that no role may send in any state, each with its reason.
FOR_EITHER: list[tuple[bytes, str]] = [
    (b"", "empty message"),
    (b"\0", "opcode 0"),
    (b"\0anything", "opcode 0"),
    (b"\x01", "frame too short for its name"),
    (b"\x01\x05abcd", "frame too short for its name"),
    (b"\x01\x02\xff\xfe", "name is not UTF-8"),
    (b"\x01\x03\xed\xa0\x80", "name is not UTF-8"),
    (b"\x06\0\0\0", SHORT_ID),
    (item(0), "id 0"),
    (b"\x08\0\0\0\x01\0\0\0", SHORT_FIELDS),
    (credit(1, 5) + b"x", "bytes after the last field"),
    (credit(0, 5), "id 0"),
    (hello(), "a second hello"),
    (b"\x0a\0\0\0\0\x01", SHORT_FIELDS),
    (b"\x0b\x0e\0\0\0", SHORT_FIELDS),
    (goaway(text=b"\xff"), TEXT.decode()),
    (goaway(text=b"\xf4\x90\x80\x80"), TEXT.decode()),
    (ping(bytes(126)), "ping or pong of more than 125 bytes"),
    (pong(bytes(126)), "ping or pong of more than 125 bytes"),
]


def for_role(theirs: int, ours: int) -> list[tuple[bytes, str]]:
    """Rows that depend on the sides: `theirs` is the id of a call of the sender, `ours` of the receiver."""
    return [
        (request(ours, "echo"), "id of the wrong side"),
        (opened(ours, "echo"), "id of the wrong side"),
        (reset(ours), "id of the wrong side"),
        (end(ours), "id of the wrong side"),
        (response(theirs), "id of the wrong side"),
        (error(theirs, 5), "id of the wrong side"),
        (request(0, "echo"), "id 0"),
        (opened(0, "echo"), "id 0"),
        (reset(0), "id 0"),
        (end(0), "id 0"),
        (response(0), "id 0"),
        (error(0, 5), "id 0"),
        (reset(theirs) + b"x", "bytes after the id"),
        (end(theirs) + b"x", "bytes after the id"),
        (reset(theirs)[:-1], SHORT_ID),
        (request(theirs, "echo")[:5], "frame too short for its name"),
        (request(theirs, "echo")[:8], "frame too short for its name"),
        (struct.pack("!BIB", 2, theirs, 2) + b"\xc0\x80", "name is not UTF-8"),
        (opened(theirs, "echo")[:5], SHORT_FIELDS),
        (opened(theirs, "echo", timeout=9)[:9], SHORT_FIELDS),
        (opened(theirs, "echo", metadata=entry(b"a"))[:7], SHORT_FIELDS),
        (opened(theirs, "echo", metadata=entry(b"a"))[:10], SHORT_FIELDS),
        (opened(theirs, "echo")[:8], "frame too short for its name"),
        (opened(theirs, "echo", flags=0x40), "unknown flags in an open"),
        (opened(theirs, "echo", flags=0x80), "unknown flags in an open"),
        (opened(theirs, "echo", flags=TRACKED), "flag 10 without flag 08 in an open"),
        (opened(theirs, "echo", flags=TRACKED | SENDS | NESTED), "flag 10 without flag 08 in an open"),
        (opened(theirs, "echo", metadata=b"\x01"), PARSE),
        (opened(theirs, "echo", metadata=entry(b"a", b"value")[:-1]), PARSE),
        (opened(theirs, "echo", metadata=entry(b"a") + b"\0"), PARSE),
        (opened(theirs, "echo", metadata=entry(b"")), PARSE),
        (opened(theirs, "echo", metadata=entry(b"A")), PARSE),
        (opened(theirs, "echo", metadata=entry(b"a b")), PARSE),
        (opened(theirs, "echo", metadata=entry(b"\xc3\xa4")), PARSE),
        (opened(theirs, "echo", metadata=entry(b"a") + entry(b"b") + entry(b"a")), PARSE),
        (struct.pack("!BIB", 9, ours, 5), SHORT_FIELDS),
        (error(ours, 5, 0, b"text")[:-1], SHORT_FIELDS),
        (error(ours, 5, 0, b"\xff"), TEXT.decode()),
    ]


# The "1002" cells of the tables of a call's life: what goes before, and what must not follow.
CELLS: list[tuple[str, list[bytes], bytes, str]] = [
    ("a request for a running call", [request(1, "forever")], request(1, "echo"), "id in use"),
    ("an open for a running call", [request(1, "forever")], opened(1, "echo"), "id in use"),
    (
        "an open after the end of items",
        [opened(1, "forever", flags=SENDS), end(1)],
        opened(1, "echo"),
        "id in use",
    ),
    (
        "a request for a waiting call",
        [request(1, "forever"), request(2, "echo")],
        request(2, "echo"),
        "id in use",
    ),
    ("an open for a stopping call", [request(1, "stubborn"), reset(1)], opened(1, "echo"), "id in use"),
    ("an item for a call without", [request(1, "forever")], item(1, b"x"), "item for a call without items"),
    ("an item for a stream", [opened(1, "endless", flags=TAKES)], item(1), "item for a call without items"),
    ("an end for a call without", [request(1, "forever")], end(1), "end of items for a call without items"),
]


# Frames that cross an end, or that nobody has asked for, while call 1 of the client runs.
IGNORED = [
    reset(9),
    item(9, b"x"),
    end(9),
    credit(9, 0),
    credit(1, 1),
    item(TOP | 9, b"x"),
    credit(TOP | 9, 1),
    response(TOP | 9, b"unasked"),
    error(TOP | 9, 99, 9, b"unasked"),
    pong(b"unasked"),
    b"\x01\x06nobody",
]


def make_app() -> sockrpc.App:
    app = sockrpc.App()
    app.method("echo")(lambda call: call.payload)
    over = asyncio.Event()

    @app.method("forever")
    async def forever(call: sockrpc.Call) -> None:
        await over.wait()

    @app.method("endless")
    async def endless(call: sockrpc.Call) -> Any:
        while True:
            yield b"x"

    @app.method("stubborn")
    async def stubborn(call: sockrpc.Call) -> None:
        try:
            await over.wait()
        finally:
            await asyncio.sleep(0.05)

    return app


async def faulty(serving: Any, before: list[bytes], message: bytes, reason: str, how: str = "whole") -> None:
    peer = await V1Peer.meet(serving.port)
    await peer.say(*before)
    await deliver(peer, frame(BINARY, message), how)
    assert await peer.hear_end() == ("close", 1002, reason)
    await peer.close()


@pytest.mark.parametrize("how", DELIVERIES)
async def test_each_fault_of_a_client_closes_its_connection_and_no_other(how: str) -> None:
    async with serving(make_app()) as there:
        other = await V1Peer.meet(there.port)
        await other.say(request(1, "forever"))
        for message, reason in [*FOR_EITHER, *for_role(1, TOP | 1)]:
            try:
                await faulty(there, [], message, reason, how)
            except AssertionError as failure:
                raise AssertionError(f"{message!r} is to be {reason!r}") from failure
        await other.say(request(2, "echo", b"still here"))
        assert await other.hear() == (4, 2, b"still here")
        assert there.server.statistics().calls_in_flight == 1
        await other.close()


@pytest.mark.parametrize(("what", "before", "message", "reason"), CELLS, ids=[cell[0] for cell in CELLS])
async def test_each_cell_that_says_1002(what: str, before: list[bytes], message: bytes, reason: str) -> None:
    async with serving(make_app(), max_in_flight=1) as there, there.connect(protocols=V1) as other:
        await faulty(there, before, message, reason)
        assert await other.call("echo", b"x") == b"x"


async def test_each_fault_of_a_server_closes_its_connection() -> None:
    for message, reason in [*FOR_EITHER, *for_role(TOP | 1, 1)]:
        async with client_of(app=make_app()) as (client, peer):
            waiting = client.start("anything")
            assert (await hear(peer))[0] == 2
            await say(peer, message)
            assert await hear(peer) == ("close", 1002, reason), message
            with pytest.raises(sockrpc.ProtocolError) as caught:
                await waiting
            assert (caught.value.code, caught.value.reason) == (1002, reason)


async def test_a_cursor_that_is_not_all_there_is_a_fault() -> None:
    for payload in (b"", b"\x05abcd"):
        async with client_of() as (client, peer), client.stream("feed", tracked=True) as stream:
            await say(peer, item(1, b"\x04abcdpayload"), item(1, payload))
            assert await anext(stream) == b"payload"
            assert stream.cursor == b"abcd"
            with pytest.raises(sockrpc.ProtocolError, match="cursor"):
                await anext(stream)


@pytest.mark.parametrize(
    ("first", "code", "reason"),
    [
        (frame(BINARY, request(1, "echo")), 1002, "the first frame is not a hello"),
        (frame(BINARY, goaway()), 1002, "the first frame is not a hello"),
        (frame(BINARY, b"\xc8anything"), 1002, "the first frame is not a hello"),
        (frame(1, b"text"), 1003, "text message: every message is binary"),
        (frame(BINARY, hello()[:-1]), 1002, SHORT_FIELDS),
        (frame(BINARY, hello(metadata=b"\x01")), 1002, PARSE),
        (frame(BINARY, hello(metadata=entry(b"a") * 2)), 1002, PARSE),
        (
            frame(BINARY, hello(metadata=b"".join(entry(b"%d" % n) for n in range(65)))),
            1002,
            "more metadata in a hello than 64 entries",
        ),
        (
            frame(BINARY, hello(metadata=entry(b"a", bytes(16 * 1024)))),
            1002,
            "more metadata in a hello than 16 KiB",
        ),
    ],
)
async def test_what_is_no_proper_hello_closes(first: bytes, code: int, reason: str) -> None:
    async with serving(make_app()) as there:
        peer = await RawClient.connect(there.port, then=first, Sec_WebSocket_Protocol=V1)
        assert understood((await peer.receive())[1])[0] == 10
        assert await peer.closing() == (code, reason)
        await peer.close()


async def test_a_hello_that_does_not_come_closes_at_the_handshake_timeout() -> None:
    async with serving(make_app(), handshake_timeout=0.05) as there:
        peer = await RawClient.connect(there.port, Sec_WebSocket_Protocol=V1)
        assert understood((await peer.receive())[1])[0] == 10
        assert await peer.closing() == (1002, "no hello")
        await peer.close()


async def test_metadata_beyond_the_limits_of_an_open_ends_only_that_call() -> None:
    many = b"".join(entry(b"%d" % n) for n in range(65))
    async with serving(make_app()) as there:
        peer = await V1Peer.meet(there.port)
        await peer.say(
            opened(1, "echo", metadata=many),
            opened(2, "echo", metadata=entry(b"a", bytes(17_000))),
            opened(3, "echo", b"x", metadata=entry(b"a", bytes(16_000))),
        )
        for id in (1, 2):
            assert (await peer.hear())[:4] == (9, id, 3, 1)
        assert await peer.hear() == (4, 3, b"x")
        await peer.close()


async def test_later_opcodes_and_strange_numbers_are_ignored() -> None:
    async with serving(make_app()) as there:
        peer = await V1Peer.meet(
            there.port, b"\x0a\xff" + hello(window=1, metadata=entry(b"later", b"x"))[2:]
        )
        ignored = [bytes([opcode]) + b"anything" for opcode in range(14, 256)]
        await peer.say(*ignored, request(1, "echo", b"x"))
        assert await peer.hear() == (4, 1, b"x")
        await peer.close()


@pytest.mark.parametrize("message", IGNORED, ids=bytes.hex)
async def test_each_cell_that_says_ignore(message: bytes) -> None:
    async with serving(make_app()) as there:
        peer = await V1Peer.meet(there.port)
        await peer.say(request(1, "forever"), message, message, request(2, "echo", b"x"))
        assert await peer.hear() == (4, 2, b"x")
        assert there.server.statistics().calls_in_flight == 1
        await peer.close()


async def test_a_second_reset_is_ignored() -> None:
    async with serving(make_app()) as there:
        peer = await V1Peer.meet(there.port)
        await peer.say(request(1, "forever"), request(2, "echo", b"x"))
        assert await peer.hear() == (4, 2, b"x")
        await peer.say(reset(1), reset(1))
        assert await peer.error() == (1, 1, 0)
        await peer.say(request(1, "echo", b"the id is free"))
        assert await peer.hear() == (4, 1, b"the id is free")
        await peer.close()
