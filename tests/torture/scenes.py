"""What one peer of a round does from its coming to its going."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import sockrpc
from tests.kit.inside import has_ended
from tests.kit.support import BINARY, CONTINUATION, PING, frame, notify, opening, request
from tests.torture.acts import KEY, World, chance_program
from tests.torture.apps import METHODS, PLAIN, TIMED
from tests.torture.peers import PATIENCE, Peer, malformed

WITNESS_PATIENCE = 5.0


class Place:
    """Where the server of the moment is, and what it speaks."""

    def __init__(self, *, tls: Any, server_compresses: bool, form: bool) -> None:
        self.port = 0
        self.tls = tls
        self.server_compresses = server_compresses
        self.form = form

    @property
    def uri(self) -> str:
        return f"{'wss' if self.tls else 'ws'}://127.0.0.1:{self.port}"


def chance_path(chance: random.Random, *, strict: bool, form: bool) -> str:
    """A path whose query says what the hooks are to do."""
    mild = ["", "", "s1", "s5", "n", "N5,s1", "j", "y", "d", "u"]
    wild = [*mild, "c", "q", "X", "b5000", "xV", "xB", "xG", "xC", "o", "s200", "n70000", "N70000", "l"]
    wanted = mild if strict else wild
    query = {"oc": chance.choice(wanted), "od": chance.choice(wild[:-4] if strict else wild)}
    query["oc2"] = chance.choice(
        ["", "", "n", "j", "d"] if strict else ["", "c", "xV", "xB", "xG", "b10", "j"]
    )
    query["pr"] = chance.choice(
        ["", "", "s1", "y"]
        if strict
        else ["", "", "s5", "y", "n", "refuse", "odd", "break", "xV", "xB", "c", "o", "s100"]
    )
    if form:
        query["form"] = chance.choice(
            ["", "s", "t", "tttt", "c", "cs", "d", "tc"]
            if strict
            else ["", "tt", "c", "d", "r", "x", "sr", "ttx", "tsx"]
        )
    return "/?" + "&".join(f"{name}={value}" for name, value in query.items() if value)


async def strict_peer(world: World, place: Place, chance: random.Random, name: str) -> None:
    peer = Peer(world, chance, name, strict=True)
    path = chance_path(chance, strict=True, form=place.form)
    # Another one of its room may be what makes it slow.
    peer.may_end = "j" in path
    if not await peer.connect(place.port, path, tls=place.tls, deflate=chance.random() < 0.4):
        return await peer.leave("abort")
    listening = asyncio.create_task(peer.listen())
    try:
        for _ in range(chance.randrange(1, 12)):
            if peer.ended.is_set():
                break
            data = peer.some(chance.choice((1, 1, 2, 5, 20, 60)))
            await write_split(peer, data)
            await asyncio.sleep(chance.choice((0, 0, 0.001, 0.01, 0.03)))
        await peer.until_answered()
    finally:
        await peer.leave(chance.choice(("close", "eof", "half", "cut")))
        await end(listening)


async def write_split(peer: Peer, data: bytes) -> None:
    """In one piece mostly; else in some, with turns of the loop between them."""
    assert peer.writer is not None
    step = peer.chance.choice((0, 0, 0, len(data) // 2, 37))
    if step:
        await peer.write_in_pieces(data, max(step, len(data) // 50))
    else:
        peer.write(data)
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(PATIENCE):
            await peer.writer.drain()


async def wild_peer(world: World, place: Place, chance: random.Random, name: str) -> None:
    peer = Peer(world, chance, name, strict=False)
    path = chance_path(chance, strict=False, form=place.form)
    if not await peer.connect(place.port, path, tls=place.tls, deflate=chance.random() < 0.4):
        return await peer.leave("abort")
    listening = asyncio.create_task(peer.listen())
    try:
        for _ in range(chance.randrange(1, 15)):
            if peer.ended.is_set():
                break
            await misbehave(peer)
            await asyncio.sleep(chance.choice((0, 0, 0.001, 0.01, 0.03)))
        if chance.random() < 0.5 and not peer.ended.is_set():
            peer.write(malformed(chance) + peer.some(2))
            await asyncio.sleep(chance.choice((0, 0.01)))
    finally:
        await peer.leave(chance.choice(("close", "eof", "half", "cut", "cut")))
        await end(listening)


async def misbehave(peer: Peer) -> None:
    chance = peer.chance
    draw = chance.randrange(10)
    if draw < 5:
        peer.write(peer.some(chance.choice((1, 3, 20, 100, 400))))
    elif draw == 5:
        peer.reading.clear()
        peer.write(peer.some(30))
        await asyncio.sleep(chance.choice((0.005, 0.05, 0.3)))
        peer.reading.set()
    elif draw == 6:
        # Half of a message; the rest may come, or something else.
        data = peer.message(request(77, "nobody", bytes(20_000)))
        peer.write(data[: chance.randrange(1, len(data))])
    elif draw == 7:
        event = chance.choice(("event", "waiting_event"))
        peer.write(
            notify(event, peer.payload("inline" if event == "event" else "coroutine")[0])
            * chance.choice((1, 50, 300))
        )
    elif draw == 8:
        peer.write(
            frame(PING, b"flood") * 200
            + frame(BINARY, b"\x01", final=False)
            + frame(CONTINUATION, b"\0", final=chance.random() < 0.8)
        )
    else:
        # In the same read: calls, and their resets.
        peer.write(peer.some(10) + b"".join(peer.reset() for _ in range(10)))


async def client_peer(world: World, place: Place, chance: random.Random, name: str) -> None:
    """Our own client, whose tasks are cancelled and time out."""
    options: dict[str, Any] = {"ssl": place.tls} if place.tls else {}
    if chance.random() < 0.4:
        options["compression"] = "deflate"
    if chance.random() < 0.5:
        options |= {"max_listener_payloads": 2, "output_high_bytes": 1000, "output_low_bytes": 0}
    strict = chance.random() < 0.5
    uri = place.uri + chance_path(chance, strict=strict, form=place.form)
    gone = (OSError, sockrpc.SockRPCError, TimeoutError)
    try:
        async with asyncio.timeout(PATIENCE):
            client = await sockrpc.connect(
                uri, open_timeout=chance.choice((0.01, 1.0, 10.0)), close_timeout=1.0, **options
            )
    except gone:
        return
    try:
        with contextlib.suppress(*gone):
            listener = client.on("note")
            world.spawn(hear(listener))
        tasks = []
        for n in range(chance.randrange(1, 40)):
            tasks.append(
                asyncio.create_task(client_call(world, client, chance, f"{name}{n:06d}", strict=strict))
            )
            if chance.random() < 0.3:
                tasks.append(asyncio.create_task(client_notify(client, chance, f"{name}n{n:05d}")))
            if chance.random() < 0.3:
                await asyncio.sleep(chance.choice((0, 0.001, 0.01)))
            if chance.random() < 0.3:
                chance.choice(tasks).cancel()
        if chance.random() < 0.3:
            world.spawn(close_later(client))
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*tasks, return_exceptions=True)
        if not has_ended(client) and client.status().pending:
            world.fault("a client still waits though all of its calls have ended", client.status())
    except TimeoutError:
        world.fault("calls of a client with time-outs did not end", name)
    finally:
        await client.close()


async def close_later(client: sockrpc.Client) -> None:
    await asyncio.sleep(0.005)
    await client.close()


async def hear(listener: Any) -> None:
    with contextlib.suppress(sockrpc.SockRPCError):
        async for _ in listener:
            pass


async def client_call(
    world: World, client: sockrpc.Client, chance: random.Random, key: str, *, strict: bool
) -> None:
    method = chance.choice((*METHODS, "inline", "coroutine", "nobody"))
    kind = ("thread" if method.startswith("thread") else "inline") if method in PLAIN else "coroutine"
    program = chance_program(chance, benign=strict, kind=kind)
    limit = chance.choice((0.001, 0.005, 0.02, 0.1))
    try:
        answer = await client.call(method, f"{key} {program} ".encode(), timeout=limit)
    except (TimeoutError, sockrpc.SockRPCError):
        return
    if answer and answer[:KEY] != key.encode() and "v" not in program:
        world.fault("a client got an answer of another call", (key, answer[:30]))
    if strict and method not in TIMED and len(answer) != KEY + int(program.rpartition("=")[2]):
        world.fault("a client got an answer of another size", (key, program, len(answer)))


async def client_notify(client: sockrpc.Client, chance: random.Random, key: str) -> None:
    event = chance.choice(("event", "waiting_event"))
    program = chance_program(chance, benign=True, kind="inline" if event == "event" else "coroutine")
    with contextlib.suppress(sockrpc.SockRPCError, TimeoutError):
        async with asyncio.timeout(0.5):
            await client.notify(event, f"{key} {program} ".encode() + bytes(chance.choice((0, 5000))))


async def stranger(world: World, place: Place, chance: random.Random, name: str) -> None:
    """One that never opens a WebSocket."""
    text = opening("/?pr=" + chance.choice(("s5", "xB", "break", "")))
    data = chance.choice(
        (
            b"",
            text[: chance.randrange(1, len(text))],
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            chance.randbytes(100) + b"\r\n\r\n",
            text + bytes(70_000),
            text,
        )
    )
    try:
        async with asyncio.timeout(PATIENCE):
            _reader, writer = await asyncio.open_connection(
                "127.0.0.1", place.port, ssl=place.tls if chance.random() < 0.8 else None
            )
    except (OSError, TimeoutError):
        return
    with contextlib.suppress(OSError):
        writer.write(data)
        await asyncio.sleep(chance.choice((0, 0.005, 0.05)))
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def witness(world: World, place: Place, leave: asyncio.Event) -> None:
    """A quiet client that notices nothing of the others, but that its server stops."""
    options: dict[str, Any] = {"ssl": place.tls} if place.tls else {}
    while not leave.is_set():
        stops = world.stops
        try:
            async with asyncio.timeout(PATIENCE):
                client = await sockrpc.connect(place.uri, **options)
        except (OSError, sockrpc.SockRPCError, TimeoutError):
            await asyncio.sleep(0.005)
            continue
        n = 0
        try:
            while not leave.is_set():
                n += 1
                text = str(n).encode()
                try:
                    answer = await client.call("echo", text, timeout=WITNESS_PATIENCE)
                except sockrpc.RPCError as error:
                    # In v1 a connection whose limits are smaller than a call refuses each.
                    if error.code is not sockrpc.Code.RESOURCE_EXHAUSTED:
                        raise
                    answer = text
                if answer != text:
                    world.fault("the witness got a wrong answer")
                await asyncio.sleep(0.005)
        except TimeoutError:
            world.fault(f"the witness was not answered within {WITNESS_PATIENCE:g} s", n)
        except (sockrpc.ConnectionLost, sockrpc.RPCError) as error:
            # In v1 a server that stops refuses calls before it closes.
            if world.stops == stops:
                world.fault("the witness lost its connection", repr(error))
        finally:
            await client.close()


async def end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled() and task.exception() is not None:
        raise task.exception()  # type: ignore[misc]


SCENES = (strict_peer, strict_peer, wild_peer, wild_peer, wild_peer, client_peer, client_peer, stranger)
