"""Messages that are larger than a read: nothing of them is lost, mixed up or kept."""

from __future__ import annotations

import asyncio
import os
import random
import struct
import time
import tracemalloc

import pytest

import sockrpc
from sockrpc._debug import is_sanitized
from sockrpc.websocket.loop import context_of_running_loop
from tests.kit.pair import MemoryServer
from tests.kit.raw_server import connected
from tests.kit.support import BINARY, PING, PONG, RawClient, Serving, frame, request, serving, until

pytestmark = pytest.mark.newest

KIB, MIB = 1024, 1024 * 1024
# As sockrpc.websocket.buffers has it.
MOST_SPARES, MOST_SPARE_BYTES = 8, 16 * MIB
# What stands before the payload in a Request of `echo`.
PREFIX = len(b"\x02\x00\x00\x00\x01\x04echo")


def masked(message: bytes) -> bytes:
    """A binary message; `frame` masks byte by byte, which takes long for so many."""
    size, key = len(message), os.urandom(4)
    covered = int.from_bytes(message) ^ int.from_bytes(key * (size // 4 + 1)) >> (4 - size % 4) * 8
    return b"\x82\xff" + struct.pack("!Q", size) + key + covered.to_bytes(size)


def large(id: int, name: str, payload: bytes) -> bytes:
    return masked(b"\x02" + struct.pack("!IB", id, len(name)) + name.encode() + payload)


def app() -> sockrpc.App:
    made = sockrpc.App()
    made.method("echo")(lambda call: call.payload)
    made.method("e" * 255)(lambda call: call.payload)
    made.method("spare")(lambda call: str(context_of_running_loop().spare_bytes))

    @made.on("echo")
    def echo(notification: sockrpc.Notification) -> None:
        notification.socket.notify_nowait("echo", notification.payload)

    return made


# About where unmasking moves into the copying (4 KiB), where receiving goes into the parser's own memory
# (64 KiB missing), a whole read (256 KiB), and a step of receiving (1 MiB).
SIZES = [
    *(4 * KIB + each for each in (-PREFIX - 1, -PREFIX, -PREFIX + 1, 0)),
    *(base + each for base in (64 * KIB, 256 * KIB, 320 * KIB, MIB, 2 * MIB) for each in (-15, -1, 0, 1)),
]


@pytest.mark.parametrize("size", SIZES)
async def test_a_payload_comes_back_as_it_was_sent(size: int) -> None:
    payload = random.Random(size).randbytes(size)
    async with serving(app()) as here, await here.raw() as raw, here.connect() as client:
        await raw.send(large(1, "echo", payload) + request(2, "echo", b"behind"))
        assert await raw.answer() == (1, payload)
        assert await raw.answer() == (2, b"behind")
        # The longest name leaves the most of what is unmasked at once.
        await raw.send(large(3, "e" * 255, payload))
        assert await raw.answer() == (3, payload)
        async with asyncio.timeout(10):
            events = client.on("echo")
            await client.notify("echo", payload)
            assert await anext(events) == payload


@pytest.mark.parametrize("seed", range(4))
async def test_many_that_arrive_in_pieces_at_once_are_not_mixed_up(seed: int) -> None:
    dice = random.Random(seed)
    async with serving(app()) as here:
        raws = [await here.raw() for _ in range(MOST_SPARES + 3)]
        for turn in range(2):
            payloads = [dice.randbytes(dice.randrange(90 * KIB, 400 * KIB)) for _ in raws]
            left = [large(turn, "echo", each) for each in payloads]
            while any(left):
                i = dice.choice([i for i, each in enumerate(left) if each])
                cut = dice.choice([1, 7, 1000, 70 * KIB, 200 * KIB])
                raws[i].writer.write(left[i][:cut])
                left[i] = left[i][cut:]
                await asyncio.sleep(0)
            for raw, payload in zip(raws, payloads, strict=True):
                assert await raw.answer() == (turn, payload)
            assert await spare_bytes(raws[0]) <= MOST_SPARE_BYTES
        for raw in raws:
            await raw.close()


async def spare_bytes(raw: RawClient) -> int:
    await raw.send(request(99, "spare"))
    return int((await raw.answer())[1])


async def one_after_which(raw: RawClient, size: int) -> int:
    """What is spare right after a message of so many bytes."""
    # A debug build parses every other read in a block of its own: not the first part of the message, then.
    await raw.synchronize()
    await raw.send(large(1, "echo", bytes(size)))
    assert len((await raw.answer())[1]) == size
    # Not in the same read, which is what the memory is kept until the end of.
    spare = await spare_bytes(raw)
    await raw.synchronize()
    return spare


kept = pytest.mark.skipif(is_sanitized(), reason="AddressSanitizer is to see buffers freed: none is kept")


@kept
async def test_the_memory_of_a_large_message_serves_the_next_and_is_freed_when_none_comes() -> None:
    async with serving(app()) as here, await here.raw() as raw, await here.raw() as other:
        first = await one_after_which(raw, MIB)
        assert MIB < first < 2 * MIB
        # The next ones need no more, whose ever they are.
        most = first
        for each in (other, raw, other):
            most = max(most, await one_after_which(each, MIB))
        assert most == first
        context = context_of_running_loop()
        await until(lambda: context.spare_bytes == 0)


@pytest.mark.parametrize("size", [100, 32 * KIB, MOST_SPARE_BYTES])
async def test_what_is_small_or_larger_than_all_that_is_kept_is_not_kept(size: int) -> None:
    async with serving(app(), max_message_bytes=2 * MOST_SPARE_BYTES) as here, await here.raw() as raw:
        assert await one_after_which(raw, size) == 0


async def test_a_flood_of_small_messages_keeps_nothing() -> None:
    # More than is served in one turn: the rest of each read is kept until the next.
    flood = b"".join(request(i, "spare") for i in range(1000)) * 40
    async with serving(app(), ping_interval=None) as here, await here.raw() as raw:
        sending = asyncio.create_task(raw.send(flood))
        most = 0
        for _ in range(40 * 1000):
            most = max(most, int((await raw.answer())[1]))
        await sending
        assert most == 0


async def test_what_a_turn_leaves_of_a_read_is_not_kept() -> None:
    made = app()

    @made.method("burn")
    def burn(call: sockrpc.Call) -> None:
        end = time.monotonic() + 0.01
        while time.monotonic() < end:
            pass

    async with MemoryServer(made) as here:
        raw, pair = here.raw(capacity=MIB)
        # The rest of the read waits for the connection's next turn, in memory as large as some that is kept.
        raw.send(request(1, "burn"), request(2, "echo", bytes(1000)) * 150, request(3, "echo"))
        pair.server.receive(MIB)
        assert not pair.server.is_reading()
        await here.settle()
        assert [id for id, _ in raw.answers] == [1, *[2] * 150, 3]
        assert context_of_running_loop().spare_bytes == 0


async def test_no_more_than_so_much_is_kept() -> None:
    size = MOST_SPARE_BYTES // 4
    async with serving(app()) as here:
        raws = [await here.raw() for _ in range(MOST_SPARES)]
        messages = [large(1, "echo", bytes(size)) for _ in raws]
        for raw in raws:
            await raw.synchronize()
        # All of them have memory at once.
        for raw, message in zip(raws, messages, strict=True):
            raw.writer.write(message[:-1])
        for raw, message in zip(raws, messages, strict=True):
            await raw.send(message[-1:])
            assert len((await raw.answer())[1]) == size
            assert await spare_bytes(raw) <= MOST_SPARE_BYTES
        for raw in raws:
            await raw.close()


@kept
async def test_a_message_that_never_ends_leaves_with_its_connection() -> None:
    async with serving(app()) as here, await here.raw() as raw:
        assert await one_after_which(raw, MIB) > 0
        # It has taken the spare memory.
        await raw.send(large(1, "echo", bytes(MIB))[: 300 * KIB])
        other = await here.raw()
        await until_taken(here, other)
        await raw.close()
        await until(lambda: len(here.server.connections) == 1)
        assert await spare_bytes(other) == 0
        await other.close()


async def test_what_fragments_were_put_together_in_is_freed_with_their_message() -> None:
    parts, connections = 16, 4
    part = bytes(64 * KIB)
    async with serving(app()) as here:
        raws = [await here.raw() for _ in range(connections)]
        await asyncio.gather(*(say_in_fragments(raw, b"x", 2) for raw in raws))
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for raw in raws:
                await say_in_fragments(raw, part, parts)
            # Their connections stay.
            left = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert left < parts * len(part) / 2, "each had a message of as many bytes"
        for raw in raws:
            await raw.close()


async def say_in_fragments(raw: RawClient, part: bytes, parts: int) -> None:
    """Have an event dropped that comes in so many fragments."""
    await raw.send(frame(BINARY, b"\x01\x07nothing", final=False))
    for n in range(parts):
        # The fragment of a continued message, and the last one.
        await raw.send((b"\x80" if n == parts - 1 else b"\x00") + masked(part)[1:])
    await raw.synchronize()


async def test_what_a_large_message_of_a_client_was_masked_in_is_freed() -> None:
    size = 4 * MIB
    async with connected() as (client, peer):
        await client.notify("event", b"x")
        await peer.receive()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            await client.notify("event", bytes(size))
            opcode, message = await peer.receive()
            assert (opcode, len(message)) == (BINARY, len(b"\x01\x05event") + size)
            del message
            # The system has it all; nothing of it is kept for what is written next.
            left = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert left < MIB


async def until_taken(here: Serving, other: RawClient) -> None:
    while await spare_bytes(other):
        pass


async def test_control_frames_between_fragments_that_are_large() -> None:
    payload = os.urandom(300 * KIB)
    message = b"\x02\x00\x00\x00\x01\x04echo" + payload
    parts = [message[i : i + 100 * KIB] for i in range(0, len(message), 100 * KIB)]
    async with serving(app()) as here, await here.raw() as raw:
        for i, part in enumerate(parts):
            await raw.send(frame(BINARY if i == 0 else 0, part, final=i == len(parts) - 1))
            await raw.send(frame(PING, b"%d" % i))
        for i in range(len(parts) - 1):
            assert await raw.receive() == (PONG, b"%d" % i)
        assert await raw.answer() == (1, payload)
