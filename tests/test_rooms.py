"""Rooms: who is a member, who gets a broadcast, and what becomes of one who does not read."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.http11 import Request

import sockrpc
from sockrpc.peer.broadcast import broadcast
from tests.kit.pair import MemoryServer
from tests.kit.support import BINARY, CLOSE, RawClient, Serving, frame, request, serving, started, until
from tests.kit.work import Work

MESSAGE = b"\x01\x01m"


@contextlib.asynccontextmanager
async def members(
    room: sockrpc.Room, count: int, **options: Any
) -> AsyncIterator[tuple[Serving, list[RawClient]]]:
    """A server whose sockets all join the room, and so many of its clients, in order of their joining."""
    app = sockrpc.App()
    app.on_connect(room.join)
    async with serving(app, **options) as here, contextlib.AsyncExitStack() as stack:
        clients = []
        for n in range(count):
            clients.append(await stack.enter_async_context(await here.raw()))
            await until(lambda n=n: len(room) == n + 1)
        yield here, clients


def socket_of(here: Serving, client: RawClient) -> sockrpc.Socket:
    address = client.writer.get_extra_info("sockname")
    (socket,) = (each for each in here.server.connections if each.remote_address == address)
    return socket


async def test_a_broadcast_goes_to_every_member_and_is_counted() -> None:
    room = sockrpc.Room()
    assert room.broadcast("m", "to nobody") == 0
    async with members(room, 3) as (_, clients):
        assert room.broadcast("m", "text") == 3
        assert room.broadcast("m", bytes(100_000)) == 3
        assert room.broadcast("m") == 3
        for client in clients:
            for payload in (b"text", bytes(100_000), b""):
                assert await client.receive() == (BINARY, MESSAGE + payload)


async def test_one_member_may_be_left_out() -> None:
    room = sockrpc.Room()
    async with members(room, 2) as (here, (one, two)):
        left_out = socket_of(here, one)
        assert room.broadcast("m", "to the other", exclude=left_out) == 1
        assert await two.receive() == (BINARY, MESSAGE + b"to the other")
        room.leave(left_out)
        assert room.broadcast("m", "not to a stranger", exclude=left_out) == 1
        assert await two.receive() == (BINARY, MESSAGE + b"not to a stranger")
        await one.synchronize()


async def test_joining_twice_is_joining_once_and_leaving_is_leaving() -> None:
    room, other = sockrpc.Room(), sockrpc.Room()
    async with members(room, 1) as (here, (client,)):
        socket = here.only_socket()
        room.join(socket)
        other.join(socket)
        assert (len(room), len(other), socket in room, socket in other) == (1, 1, True, True)
        assert room.broadcast("m", "once") == 1
        room.leave(socket)
        room.leave(socket)
        assert (len(room), socket in room, socket in other) == (0, False, True)
        assert room.broadcast("m", "to nobody") == 0
        room.join(socket)
        assert room.broadcast("m", "again") == 1
        assert await client.receive() == (BINARY, MESSAGE + b"once")
        assert await client.receive() == (BINARY, MESSAGE + b"again")
        await client.synchronize()
    assert (len(room), len(other)) == (0, 0)


async def test_leaving_a_room_that_was_never_joined_does_nothing() -> None:
    app = sockrpc.App()
    room = sockrpc.Room()
    async with serving(app) as here, await here.raw():
        socket = here.only_socket()
        room.leave(socket)
        assert "nothing of the kind" not in room
        assert socket not in room


async def test_a_room_is_not_kept_alive_by_those_who_have_left_it() -> None:
    def rooms() -> int:
        return sum(type(each) is sockrpc.Room for each in gc.get_objects())

    async with serving(sockrpc.App()) as here, await here.raw():
        before = rooms()
        left = [sockrpc.Room() for _ in range(3)]
        for room in left:
            room.join(here.only_socket())
            room.leave(here.only_socket())
        del left, room
        gc.collect()
        assert rooms() == before


@pytest.mark.parametrize("end", ["end of file", "broken line", "close frame", "our close"])
async def test_a_lost_connection_leaves_all_its_rooms_and_joins_none(end: str) -> None:
    room, other = sockrpc.Room(), sockrpc.Room()
    async with members(room, 2) as (here, (one, two)):
        socket = socket_of(here, one)
        other.join(socket)
        closing = None
        if end == "end of file":
            one.writer.write_eof()
        elif end == "broken line":
            one.reset_line()
        elif end == "close frame":
            await one.send(frame(CLOSE, (1000).to_bytes(2, "big")))
        else:
            closing = asyncio.ensure_future(socket.close())
        await until(lambda: len(room) == 1)
        assert (len(other), socket in room) == (0, False)
        for each in (room, other):
            each.join(socket)
            each.leave(socket)
            each.join(socket)
        assert (len(room), len(other)) == (1, 0)
        assert room.broadcast("m", "to the other") == 1
        assert await two.receive() == (BINARY, MESSAGE + b"to the other")
        await one.close()
        if closing is not None:
            await closing


async def test_rooms_are_left_before_on_disconnect_and_with_the_abort_of_the_calls() -> None:
    work = Work()
    app = work.app()
    room = sockrpc.Room()
    app.on_connect(room.join)
    seen: list[tuple[int, int, int]] = []

    @app.on_disconnect
    def disconnected(socket: sockrpc.Socket) -> None:
        seen.append((len(room), room.broadcast("m", "he has left"), socket.in_flight))

    async with serving(app) as here, await here.raw() as other:
        await until(lambda: len(room) == 1)
        async with await here.raw() as raw:
            await raw.send(request(1, "work"))
            await until(lambda: work.calls)
        assert await other.receive() == (BINARY, MESSAGE + b"he has left")
        assert seen == [(1, 1, 0)]


async def test_a_member_below_its_limit_is_kept_however_slow() -> None:
    room = sockrpc.Room()
    payload = bytes(256 * 1024)
    limits = {"output_high_bytes": 256 * 1024, "output_low_bytes": 0, "output_max_bytes": 2**40}
    async with members(room, 1, **limits) as (here, (slow,)):
        socket = here.only_socket()
        while (waiting := await started(socket.notify("m", payload))).done():
            pass
        waiting.cancel()
        assert room.broadcast("m", b"queued all the same") == 1
        last = (BINARY, MESSAGE + b"queued all the same")
        while await slow.receive() != last:
            pass
        await slow.synchronize()


async def test_members_that_are_disconnected_together_do_not_close_each_other_down_the_stack() -> None:
    room = sockrpc.Room()
    app = sockrpc.App()
    gone: list[sockrpc.Socket] = []
    app.on_connect(room.join)

    @app.on_disconnect
    def tell_the_others(socket: sockrpc.Socket) -> None:
        gone.append(socket)
        room.broadcast("left", str(len(gone)))

    # Above what Python's own limit of recursion lets through, several frames for each of them.
    count = 400
    limits = {"output_high_bytes": 1024, "output_low_bytes": 0, "output_max_bytes": 1024}
    async with MemoryServer(app, **limits) as here:
        for _ in range(count):
            here.raw(capacity=512)
        await until(lambda: len(room) == count)
        assert room.broadcast("m", bytes(2048)) == count
        # Nobody has read it.
        assert room.broadcast("m") == 0
        assert len(room) == 0
        await until(lambda: len(gone) == count)
        assert len(set(gone)) == count


async def test_a_member_that_is_not_open_yet_is_passed_over() -> None:
    room = sockrpc.Room()
    told: list[Any] = []

    async def process_request(socket: sockrpc.Socket, request: Request) -> None:
        room.join(socket)
        told.append(room.broadcast("m"))
        told.append(socket.notify_nowait("m"))
        with pytest.raises(sockrpc.UsageError, match="not answered yet"):
            await socket.notify("m")

    async with serving(sockrpc.App(), process_request=process_request) as here:
        # The client would fail if anything came before the answer to its opening request.
        async with await here.raw() as raw:
            assert told == [0, False]
            await raw.synchronize()
            assert room.broadcast("m", "now") == 1
            assert await raw.receive() == (BINARY, MESSAGE + b"now")
        await until(lambda: len(room) == 0)


async def test_its_members_can_be_iterated_over_while_they_come_and_go() -> None:
    room = sockrpc.Room()
    async with members(room, 2) as (here, clients):
        sockets = [socket_of(here, client) for client in clients]
        assert list(room) == sockets
        for socket in room:
            room.leave(socket)
        assert list(room) == []
        for socket in sockets:
            room.join(socket)
        for socket in room:
            await socket.close()
        await until(lambda: len(room) == 0)


async def test_mistakes_are_usage_errors_and_nothing_is_sent() -> None:
    room = sockrpc.Room()
    async with members(room, 1) as (_, (client,)):
        with pytest.raises(sockrpc.UsageError, match="255"):
            room.broadcast("x" * 256)
        with pytest.raises(sockrpc.UsageError, match="Socket"):
            room.broadcast("m", exclude="somebody")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            room.broadcast("m", 1)  # type: ignore[arg-type]
        await client.synchronize()


def test_a_broadcast_takes_connections_and_nothing_else() -> None:
    others: list[Any] = [object()]
    with pytest.raises(TypeError, match="PeerBase"):
        broadcast(others, None, b"event", b"")
