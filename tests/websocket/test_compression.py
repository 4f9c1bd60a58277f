"""permessage-deflate (RFC 7692) in calls: who gets it, what goes over the line, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import tracemalloc
import zlib
from typing import Any

import pytest
from websockets.asyncio.client import connect as websockets_connect

import sockrpc
from tests.kit.command import Served, only_line, run_command
from tests.kit.deflate import BROWSER_OFFER, RSV1, Deflate, agreed, compressed, deflating, receive_compressed
from tests.kit.raw_server import RawServer, connected, response
from tests.kit.support import (
    BINARY,
    CONTINUATION,
    PING,
    PONG,
    SUBPROTOCOL,
    TEXT,
    frame,
    request,
    serving,
    until,
)
from tests.kit.work import Work

pytestmark = pytest.mark.outside

MIB = 1024 * 1024
REPETITIVE = b"the same again, " * 100


def echo_request(id: int, payload: bytes) -> bytes:
    return b"\x02" + struct.pack("!I", id) + b"\x04echo" + payload


# Negotiation


@pytest.mark.parametrize("offer", [BROWSER_OFFER, "permessage-deflate", "x-webkit-deflate-frame"])
async def test_no_offer_is_accepted_by_default(offer: str) -> None:
    async with serving(Work().app()) as here, await deflating(here.port, offer=offer) as client:
        assert agreed(client) is None
        await client.send(request(1, "echo", REPETITIVE))
        assert await client.answer() == (1, REPETITIVE)
        assert client.sizes == []
        await client.say(echo_request(2, b""))
        assert await client.closing() == (1002, "reserved bits set")


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        (BROWSER_OFFER, "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"),
        ("permessage-deflate", "permessage-deflate; server_max_window_bits=12"),
        (
            "permessage-deflate; server_max_window_bits=9, permessage-deflate",
            "permessage-deflate; server_max_window_bits=9",
        ),
        # What can not be had is passed over for the next.
        (
            "permessage-deflate; server_max_window_bits=8, permessage-deflate; unknown, permessage-deflate",
            "permessage-deflate; server_max_window_bits=12",
        ),
        ("permessage-deflate; server_max_window_bits=8", None),
        ("permessage-deflate; client_max_window_bits=7", None),
        ("x-webkit-deflate-frame", None),
    ],
)
async def test_a_server_agrees_to_what_it_can(offer: str, answer: str | None) -> None:
    async with serving(Work().app(), compression="deflate") as here:
        bits = 9 if answer and "=9" in answer else 12
        async with await deflating(here.port, Deflate(bits=bits), offer) as client:
            assert agreed(client) == answer
            if answer is None:
                await client.send(request(1, "echo", REPETITIVE))
            else:
                await client.say(echo_request(1, REPETITIVE))
            assert await client.answer() == (1, REPETITIVE)
            assert len(client.sizes) == (answer is not None)


@pytest.mark.parametrize("server", [None, "deflate"])
@pytest.mark.parametrize("client", [None, "deflate"])
async def test_both_sides_must_have_it_switched_on(server: Any, client: Any) -> None:
    app = Work().app()
    async with serving(app, compression=server) as here, here.connect(compression=client) as caller:
        offer = here.only_socket().request.headers.get("Sec-WebSocket-Extensions")
        assert offer == (None if client is None else BROWSER_OFFER)
        compresses = server is client is not None
        before = here.server.statistics()
        assert await caller.call("echo", REPETITIVE) == REPETITIVE
        after = here.server.statistics()
        for sent in (after.bytes_received - before.bytes_received, after.bytes_sent - before.bytes_sent):
            assert (sent < len(REPETITIVE)) == compresses
        for payload in (b"", b"x", os.urandom(100_000)):
            assert await caller.call("echo", payload) == payload


async def test_a_client_of_websockets_is_understood() -> None:
    async with (
        serving(Work().app(), compression="deflate") as here,
        websockets_connect(here.uri, subprotocols=[SUBPROTOCOL], max_size=None, proxy=None) as client,  # type: ignore[list-item]
    ):
        assert [each.name for each in client.protocol.extensions] == ["permessage-deflate"]
        for id, payload in enumerate((REPETITIVE, b"", os.urandom(100_000), REPETITIVE)):
            await client.send(echo_request(id, payload))
            assert await client.recv() == b"\x04" + struct.pack("!I", id) + payload


@pytest.mark.parametrize(
    "answer",
    ["permessage-deflate; server_max_window_bits=16", "permessage-deflate, permessage-deflate", "other"],
)
async def test_a_client_refuses_what_it_did_not_offer(answer: str) -> None:
    async with RawServer() as server:
        for compression in ("deflate", None):
            connecting = asyncio.ensure_future(opened(server.uri, compression))
            await server.accept(headers={"Sec-WebSocket-Extensions": answer})
            with pytest.raises(sockrpc.HandshakeError):
                await connecting


async def opened(uri: str, compression: Any) -> sockrpc.Client:
    return await sockrpc.connect(uri, compression=compression)


@pytest.mark.parametrize("name", ["gzip", "", True, ["deflate"]])
def test_another_name_is_the_callers_fault(name: Any) -> None:
    for make in (
        lambda: sockrpc.serve(sockrpc.App(), "127.0.0.1", 0, compression=name),
        lambda: sockrpc.run(sockrpc.App(), "127.0.0.1", 0, compression=name),
        lambda: sockrpc.connect("ws://127.0.0.1/", compression=name),
    ):
        with pytest.raises(sockrpc.UsageError, match="compression is 'deflate' or None"):
            make()


# Messages


@pytest.mark.parametrize(
    ("parameters", "ours", "theirs"),
    [
        ("", True, True),
        ("; server_no_context_takeover", False, True),
        ("; client_no_context_takeover", True, False),
        ("; server_no_context_takeover; client_no_context_takeover", False, False),
    ],
)
async def test_context_is_taken_over_unless_it_was_agreed_not_to(
    parameters: str, ours: bool, theirs: bool
) -> None:
    random = os.urandom(1000)
    async with (
        serving(Work().app(), compression="deflate") as here,
        await deflating(here.port, Deflate(takeover=theirs), BROWSER_OFFER + parameters) as client,
    ):
        assert ("server_no_context_takeover" in (agreed(client) or "")) == (not ours)
        # A decoder of its own kind for each direction.
        sending, client.deflate = client.deflate, Deflate(takeover=ours)
        for id in range(3):
            payload = sending.compress(echo_request(id, random))
            assert (len(payload) < 100) == (theirs and id > 0)
            await client.send(*compressed(payload))
            assert await client.answer() == (id, random)
        assert [size < 100 for size in client.sizes] == [False, ours, ours]


@pytest.mark.parametrize("parts", [2, 7, 40])
async def test_a_compressed_message_may_come_in_fragments(parts: int) -> None:
    payload = os.urandom(500)
    async with serving(Work().app(), compression="deflate") as here, await deflating(here.port) as client:
        for id in range(2):
            frames = compressed(client.deflate.compress(echo_request(id, payload)), parts=parts)
            for each in frames:
                await client.send(frame(PING, b"between"), each)
            for _ in frames:
                assert await client.receive() == (PONG, b"between")
            assert await client.answer() == (id, payload)


async def test_messages_may_stay_uncompressed() -> None:
    async with serving(Work().app(), compression="deflate") as here, await deflating(here.port) as client:
        for id in range(0, 6, 3):
            await client.send(request(id, "echo", REPETITIVE))
            await client.say(echo_request(id + 1, REPETITIVE))
            whole = echo_request(id + 2, REPETITIVE)
            await client.send(frame(BINARY, whole[:9], final=False), frame(CONTINUATION, whole[9:]))
            for n in range(3):
                assert await client.answer() == (id + n, REPETITIVE)


async def test_a_message_that_ends_its_stream_is_followed_by_others() -> None:
    async with serving(Work().app(), compression="deflate") as here, await deflating(here.port) as client:
        for id in range(3):
            encoder = zlib.compressobj(wbits=-12)
            stream = encoder.compress(echo_request(id, REPETITIVE)) + encoder.flush(zlib.Z_FINISH)
            await client.send(*compressed(stream + b"\x00"))
            assert await client.answer() == (id, REPETITIVE)


async def test_an_empty_compressed_message_is_an_empty_message() -> None:
    async with serving(Work().app(), compression="deflate") as here, await deflating(here.port) as client:
        await client.send(*compressed(b"\x00"))
        assert await client.closing() == (1002, "empty message")


async def test_resets_and_answers_of_a_compressed_connection() -> None:
    work = Work()
    async with (
        serving(work.app(), compression="deflate") as here,
        here.connect(compression="deflate") as client,
    ):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await client.call("work", REPETITIVE)
        await until(lambda: work.ended == 1)
        assert work.reasons == ["reset"]
        payloads = [os.urandom(size) for size in (0, 10, 20_000, 300_000)] * 8
        assert await asyncio.gather(*(client.call("echo", each) for each in payloads)) == payloads


async def test_a_client_sends_and_receives_compressed() -> None:
    async with RawServer() as server:
        connecting = asyncio.ensure_future(opened(server.uri, "deflate"))
        peer = await server.accept(
            headers={"Sec-WebSocket-Extensions": "permessage-deflate; server_no_context_takeover"}
        )
        async with await connecting as client:
            deflate = Deflate(bits=15)
            for id in (1, 2):
                call = asyncio.ensure_future(client.call("echo", REPETITIVE))
                is_compressed, payload = await receive_compressed(peer)
                assert is_compressed
                assert deflate.decompress(payload) == echo_request(id, REPETITIVE)
                answer = Deflate(bits=15).compress(b"\x04" + struct.pack("!I", id) + REPETITIVE)
                await peer.send(*compressed(answer, masked=False, parts=id))
                assert await call == REPETITIVE
            call = asyncio.ensure_future(client.call("echo", b"plain"))
            await receive_compressed(peer)
            await peer.send(response(3, b"uncompressed"))
            assert await call == b"uncompressed"
            await peer.finish()


async def test_a_broadcast_reaches_members_with_compression_and_without() -> None:
    room = sockrpc.Room()
    app = sockrpc.App()
    app.on_connect(room.join)
    async with serving(app, compression="deflate") as here, contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        clients = [await enter(here.connect(compression="deflate" if n % 2 else None)) for n in range(4)]
        raw = await enter(await deflating(here.port))
        await until(lambda: len(room) == 5)
        listeners = [client.on("event") for client in clients]
        payloads = [REPETITIVE, b"", os.urandom(50_000), REPETITIVE]
        assert [room.broadcast("event", each) for each in payloads] == [5] * len(payloads)
        for payload in payloads:
            assert [await anext(each) for each in listeners] == [payload] * 4
            assert await raw.receive() == (BINARY, b"\x01\x05event" + payload)
        # The last one repeats the first, and what came between does not fit into the window.
        assert raw.sizes[1] < 20 < raw.sizes[0] < 100 < raw.sizes[2]


# What is refused


@pytest.mark.parametrize("make", [bytes, os.urandom], ids=["zeros", "noise"])
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("size", [20, 5000, 300_000])
async def test_max_message_bytes_is_of_the_decompressed_message(make: Any, size: int, parts: int) -> None:
    payload = make(size - 10)
    app = Work().app()
    async with (
        serving(app, compression="deflate", max_message_bytes=size) as here,
        await deflating(here.port) as client,
    ):
        # Noise gets longer by being compressed, and is let in all the same.
        await client.say(echo_request(1, payload), parts=parts)
        assert await client.answer() == (1, payload)
        await client.say(echo_request(2, payload + b"x"), parts=parts)
        assert await client.closing() == (1009, f"message over {size} bytes")


async def test_a_client_limits_the_decompressed_message() -> None:
    async with connected(compression="deflate", max_message_bytes=1000) as (_, peer):
        assert "permessage-deflate" in peer.fields["sec-websocket-extensions"]
    async with RawServer() as server:
        connecting = asyncio.ensure_future(limited(server.uri))
        peer = await server.accept(headers={"Sec-WebSocket-Extensions": "permessage-deflate"})
        client = await connecting
        call = asyncio.ensure_future(client.call("echo"))
        await receive_compressed(peer)
        await peer.send(*compressed(Deflate(bits=15).compress(b"\x04\0\0\0\1" + bytes(996)), masked=False))
        assert await peer.closing() == (1009, "message over 1000 bytes")
        with pytest.raises(sockrpc.ProtocolError, match="1009"):
            await call
        await peer.finish()
        await client.close()


async def limited(uri: str) -> sockrpc.Client:
    return await sockrpc.connect(uri, compression="deflate", max_message_bytes=1000)


@pytest.mark.newest
async def test_a_bomb_takes_no_more_memory_than_the_limit() -> None:
    encoder = zlib.compressobj(9, wbits=-12)
    bomb = b"".join(encoder.compress(bytes(MIB)) for _ in range(64)) + encoder.flush(zlib.Z_SYNC_FLUSH)
    assert len(bomb) < MIB // 8
    async with (
        serving(Work().app(), compression="deflate", max_message_bytes=MIB) as here,
        await deflating(here.port) as client,
    ):
        frames = compressed(bomb[:-4])
        tracemalloc.start()
        try:
            await client.send(*frames)
            assert await client.closing() == (1009, f"message over {MIB} bytes")
            assert tracemalloc.get_traced_memory()[1] < 8 * MIB
        finally:
            tracemalloc.stop()


async def test_compressed_bytes_without_end_are_refused_by_their_header() -> None:
    async with (
        serving(Work().app(), compression="deflate", max_message_bytes=8000) as here,
        await deflating(here.port) as client,
    ):
        # 8000, an eighth, a 64th and 1024 bytes: what deflate could make of 8000 bytes at most.
        fitting = bytes(8000 + 1000 + 125 + 1024)
        await client.send(frame(BINARY, fitting, final=False, reserved=RSV1))
        await client.synchronize()
        await client.send(frame(CONTINUATION, b"x")[:2])
        assert (await client.closing())[0] == 1009


@pytest.mark.parametrize("garbage", [b"\xff" * 20, b"\x06", bytes([0, 1, 0, 0, 0])])
async def test_what_deflate_does_not_make_is_1002(garbage: bytes) -> None:
    async with serving(Work().app(), compression="deflate") as here, await deflating(here.port) as client:
        await client.send(*compressed(garbage))
        assert await client.closing() == (1002, "decompression failed")


async def test_compressed_text_is_text() -> None:
    async with serving(Work().app(), compression="deflate") as here:
        for payload, expected in (
            ("é".encode(), (1003, "text message: every message is binary")),
            (b"\xff", (1007, "text message is not UTF-8")),
        ):
            for parts in (1, 2):
                async with await deflating(here.port) as client:
                    await client.say(payload, TEXT, parts=parts)
                    assert await client.closing() == expected


# The command line


@pytest.mark.newest
def test_compression_on_the_command_line(tmp_path: Any) -> None:
    (tmp_path / "app.py").write_text(
        "import sockrpc\napp = sockrpc.App()\n"
        "@app.method\n"
        "def offer(call): return call.socket.request.headers.get('Sec-WebSocket-Extensions', 'none')\n"
    )
    for flags in ((), ("--compression", "deflate")):
        with Served("serve", "app:app", *flags, cwd=tmp_path) as server:
            done = run_command("call", server.uri, "offer", "--compression", "deflate")
            assert only_line(done.stdout) == BROWSER_OFFER
            assert only_line(run_command("call", server.uri, "offer").stdout) == "none"
            upgrade = {
                "Connection": "Upgrade",
                "Upgrade": "websocket",
                "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
                "Sec-WebSocket-Protocol": SUBPROTOCOL,
                "Sec-WebSocket-Extensions": BROWSER_OFFER,
            }
            status, headers, _ = server.fetch("/", **upgrade)
            assert (status, headers["Sec-WebSocket-Extensions"] is not None) == (101, bool(flags))
    done = run_command("call", server.uri, "offer", "--compression", "gzip")
    assert done.returncode == 2
