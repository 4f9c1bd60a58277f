"""Deadlines of many calls: each passes at its own time, and that of a call that has ended keeps nothing."""

from __future__ import annotations

import asyncio
import gc
import random
import struct

import sockrpc
from sockrpc.peer.peer import Peer
from tests.kit.support import BINARY, PATIENCE, RawClient, Serving, frame, serving, until

V1 = "sockrpc.v1"
HELLO = frame(BINARY, bytes.fromhex("0a00000000400001000000100000"))
TIMEOUT = 1
# DEADLINE_EXCEEDED; the handler had begun.
DEADLINE = bytes([4, 0])

app = sockrpc.App()


@app.method("wait")
async def wait(call: sockrpc.Call) -> None:
    await asyncio.get_running_loop().create_future()


@app.method("turn")
async def turn(call: sockrpc.Call) -> bytes:
    """Suspend, so that there is a deadline to forget."""
    await asyncio.sleep(0)
    return call.payload


def opened(number: int, method: str, milliseconds: int) -> bytes:
    """An Open with a time-out."""
    head = struct.pack("!BIBI", 5, number, TIMEOUT, milliseconds)
    return frame(BINARY, head + bytes([len(method)]) + method.encode())


async def greeted(here: Serving) -> RawClient:
    peer = await here.raw(Sec_WebSocket_Protocol=V1)
    await peer.send(HELLO)
    assert (await peer.receive())[1][0] == 10
    return peer


async def ends(peer: RawClient, count: int) -> list[tuple[int, int, bytes]]:
    """Opcode, id and what follows of so many ends."""
    found = [(await peer.receive())[1] for _ in range(count)]
    return [(data[0], struct.unpack("!I", data[1:5])[0], data[5:]) for data in found]


def kept(kind: type) -> int:
    """The number of objects of this very class."""
    return sum(type(each) is kind for each in gc.get_objects())


async def test_calls_are_aborted_in_the_order_of_their_deadlines() -> None:
    """Calls that end between them take their own deadlines out, wherever in the heap those stand."""
    rng = random.Random(13)
    milliseconds = rng.sample(range(100, 500), 200)
    ended = rng.sample(range(1, 201), 100)
    frames = [
        opened(number, "turn" if number in ended else "wait", each)
        for number, each in enumerate(milliseconds, 1)
    ]
    async with serving(app) as here, await greeted(here) as peer:
        await peer.send(*frames)
        answers = await ends(peer, 100)
        assert sorted(number for opcode, number, _ in answers if opcode == 4) == sorted(ended)
        late = await ends(peer, 100)
        waiting = [number for number in range(1, 201) if number not in ended]
        assert [number for _, number, _ in late] == sorted(
            waiting, key=lambda number: milliseconds[number - 1]
        )
        assert all(opcode == 9 and rest.startswith(DEADLINE) for opcode, _, rest in late)


async def test_a_shorter_deadline_behind_a_longer_one() -> None:
    async with serving(app) as here, await greeted(here) as peer:
        await peer.send(opened(1, "wait", int(PATIENCE * 2000)), opened(2, "wait", 30))
        [(opcode, number, _)] = await ends(peer, 1)
        assert (opcode, number) == (9, 2)


async def test_more_deadlines_at_once_than_one_iteration_aborts() -> None:
    async with serving(app) as here, await greeted(here) as peer:
        await peer.send(*(opened(number, "wait", 40) for number in range(1, 701)))
        found = await ends(peer, 700)
        assert sorted(number for _, number, _ in found) == list(range(1, 701))


async def test_the_callers_own_clocks_pass_in_their_order() -> None:
    """The same heap has the calls of this end; with them it has those that the peer has made."""
    ends: list[float] = []

    async def call(client: sockrpc.Client, seconds: float) -> None:
        # On a busy machine the first and the last of the calls begin at different times.
        end = asyncio.get_running_loop().time() + seconds
        try:
            await client.call("wait", timeout=seconds)
        except sockrpc.DeadlineExceeded:
            ends.append(end)

    seconds = [each / 1000 for each in random.Random(7).sample(range(60, 360, 5), 60)]
    async with serving(app) as here, here.connect(protocols=(V1,)) as client:
        await asyncio.gather(*(call(client, each) for each in seconds))
        assert len(ends) == len(seconds)
        assert ends == sorted(ends)


async def test_the_deadline_of_an_ended_call_keeps_nothing() -> None:
    """Neither the call, while its connection lasts, nor that, when it is over."""
    # What earlier tests have left may go meanwhile.
    calls, connections = kept(sockrpc.Call), kept(Peer)
    async with serving(app) as here:
        async with here.connect(protocols=(V1,)) as client:
            assert await client.call("turn", b"x", timeout=3600) == b"x"
            await until(lambda: kept(sockrpc.Call) <= calls)
        del client
        await until(lambda: gc.collect() >= 0 and kept(Peer) <= connections)
