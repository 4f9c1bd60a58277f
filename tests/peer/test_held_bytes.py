"""What one connection may make the server hold: payloads up to one limit, answers up to another."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import sockrpc
from tests.kit.inside import working
from tests.kit.support import RawClient, Serving, notify, request, reset, serving, until
from tests.kit.work import Work

LIMIT = 1000


async def waiting(here: Serving, count: int) -> None:
    await until(lambda: here.server.statistics().procedures_waiting == count)


async def test_calls_wait_for_room_of_those_that_run_and_start_when_it_is_there() -> None:
    there = Work()
    async with serving(there.app(), max_held_bytes=LIMIT) as here, await here.raw() as raw:
        # Together they are at the limit, which is still within it.
        await raw.send(request(1, "work", bytes(600)), request(2, "work", bytes(400)))
        await until(lambda: len(there.calls) == 2)
        await raw.send(request(3, "work", b"x"))
        await waiting(here, 1)
        assert len(there.calls) == 2
        await raw.send(request(4, "work", b""))
        # No room is needed for it, but it stands behind the third; and now nothing more is read.
        await until(lambda: len(there.calls) == 2)
        there.may_answer.set()
        answers = [await raw.answer() for _ in range(4)]
    assert sorted(answers) == [(id, b"answer") for id in range(1, 5)]


async def test_one_byte_more_than_the_room_waits() -> None:
    there = Work()
    async with serving(there.app(), max_held_bytes=LIMIT) as here, await here.raw() as raw:
        await raw.send(request(1, "work", bytes(600)), request(2, "work", bytes(401)))
        await waiting(here, 1)
        await until(lambda: len(there.calls) == 1)
        there.may_answer.set()
        assert [await raw.answer() for _ in range(2)] == [(1, b"answer"), (2, b"answer")]


async def test_one_payload_runs_whatever_its_size() -> None:
    there = Work()
    async with serving(there.app(), max_held_bytes=LIMIT) as here, await here.raw() as raw:
        await raw.send(request(1, "work", bytes(50 * LIMIT)))
        await until(lambda: len(there.calls) == 1)
        # Nothing waits, so what comes is read, and a reset acts.
        await raw.send(reset(1))
        await until(lambda: there.calls[0].is_reset)


async def test_notifications_that_run_hold_their_payloads_too() -> None:
    app = sockrpc.App()
    gate = asyncio.Event()
    begun: list[bytes] = []

    @app.on
    async def note(notification: sockrpc.Notification) -> None:
        begun.append(notification.payload[:1])
        await gate.wait()

    async with serving(app, max_held_bytes=LIMIT) as here, await here.raw() as raw:
        await raw.send(*(notify("note", each * 400) for each in (b"1", b"2", b"3")))
        await waiting(here, 1)
        await until(lambda: begun == [b"1", b"2"])
        gate.set()
        await until(lambda: begun == [b"1", b"2", b"3"])
        await until(lambda: here.server.statistics().notifications_running == 0)


async def test_an_answer_above_output_max_bytes_closes_with_1013() -> None:
    """Calls that run already cannot be held back by a peer that reads nothing; others notice nothing."""
    app = sockrpc.App()
    gate = asyncio.Event()
    begun: list[int] = []
    responded: list[bool] = []
    aborted: list[str | None] = []

    @app.method
    async def big(call: sockrpc.Call) -> None:
        call.on_abort(lambda: aborted.append(call.abort_reason))
        begun.append(call.id)
        await gate.wait()
        responded.append(await call.respond(bytes(1_000_000)))

    @app.method
    def echo(call: sockrpc.Call) -> bytes:
        return call.payload

    limits: dict[str, Any] = {
        "output_low_bytes": 1_000,
        "output_high_bytes": 10_000,
        "output_max_bytes": 5_000_000,
        "close_timeout": 0.1,
    }
    async with serving(app, **limits) as here, await here.raw() as other:
        raw = await here.raw()
        await raw.send(*(request(id, "big") for id in range(100)))
        # A call may count as running before its task takes its first step, and such a one has no hook yet.
        await until(lambda: len(begun) == 100)
        assert here.server.statistics().calls_running == 100
        gate.set()
        await until(lambda: here.server.statistics().slow_peers_closed == 1)
        # As many as fill the output and the line, and one more.
        assert 5 <= sum(responded) < 50
        await other.send(request(1, "echo", b"still here"))
        assert await other.answer() == (1, b"still here")
        await until(lambda: here.server.statistics().connections == 1)
        await until(lambda: here.server.statistics().calls_running == 0)
        # Aborted are those that were not answered, once each.
        await until(lambda: aborted == ["lost"] * (100 - sum(responded)))
        raw.reset_line()


@pytest.mark.parametrize("returns", ["at once", "with the connection"])
async def test_what_a_coroutine_of_a_socket_has_not_taken_goes_with_it(returns: str) -> None:
    """Nobody takes it any more, so the connection is over, and its slot is free."""
    left = asyncio.Event()

    async def handle(socket: sockrpc.Socket) -> None:
        async for _ in socket:
            if returns == "at once":
                break
        left.set()

    async def fill(here: Serving) -> RawClient:
        raw = await here.raw()
        await raw.send(*(notify("note", bytes(1000)) for _ in range(100)))
        return raw

    async with serving(handle, max_connections=1) as here:
        for _ in range(5):
            raw = await fill(here)
            if returns == "at once":
                await raw.closing()
            await raw.close()
            await raw.wait(left.wait())
            left.clear()
            await until(lambda: here.server.statistics().connections == 0)
            # The next one finds the only slot free.
            await until(lambda: here.server.statistics().procedures_waiting == 0)


async def test_a_lost_connection_whose_notifications_take_several_turns_frees_its_slot() -> None:
    app = sockrpc.App()
    ran: list[bytes] = []
    gate = asyncio.Event()

    @app.method
    async def slow(call: sockrpc.Call) -> None:
        await gate.wait()

    @app.on
    async def ignored(notification: sockrpc.Notification) -> None:
        pass

    @app.on
    def note(notification: sockrpc.Notification) -> None:
        until_then = asyncio.get_running_loop().time() + 0.001
        while asyncio.get_running_loop().time() < until_then:
            pass
        ran.append(notification.payload)

    async with serving(app, max_in_flight=1, max_connections=1, stop_grace=60.0) as here:
        for turn in range(1, 4):
            raw = await here.raw()
            await raw.send(request(1, "slow"), request(2, "slow"), *(notify("note") for _ in range(30)))
            await waiting(here, 31)
            raw.reset_line()
            await until(lambda turn=turn: len(ran) == 30 * turn)
            await until(lambda: not working(here.server))
        # One slot, and not one more for each that was lost.
        async with await here.raw():
            with pytest.raises(sockrpc.HandshakeError, match="503"):
                await here.connect()


async def test_a_lost_connection_whose_notifications_still_run_keeps_its_slot() -> None:
    """Whoever connects, notifies and leaves would get past every limit."""
    app = sockrpc.App()
    gate = asyncio.Event()

    @app.on
    async def note(notification: sockrpc.Notification) -> None:
        await gate.wait()

    async with serving(app, max_connections=1) as here:
        raw = await here.raw()
        await raw.send(notify("note"))
        await until(lambda: here.server.statistics().notifications_running == 1)
        raw.reset_line()
        await until(lambda: not here.server.connections)
        (connection,) = working(here.server)
        await until(lambda: connection.transport is None)
        with pytest.raises(sockrpc.HandshakeError, match="503"):
            await here.connect()
        gate.set()
        await until(lambda: not working(here.server))
        await (await here.raw()).close()


async def test_one_that_was_refused_before_its_request_came_keeps_nobody_out() -> None:
    async with serving(sockrpc.App(), max_connections=1) as here:
        raw = await here.raw()
        # It has a second to send the request that nobody waits for.
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
        assert (await raw.wait(reader.readuntil(b"\r\n"))).startswith(b"HTTP/1.1 503 ")
        await raw.close()
        await until(lambda: len(working(here.server)) == 1)
        async with await here.raw():
            assert len(working(here.server)) == 2
        writer.close()
        await raw.wait(writer.wait_closed())


async def test_in_the_socket_form_too_reading_goes_on_when_there_is_room_again() -> None:
    """Also while nobody takes: what waits may be reset meanwhile."""
    taken: list[Any] = []
    over = asyncio.Event()

    async def handle(socket: sockrpc.Socket) -> None:
        taken.append(await anext(aiter(socket)))
        taken.append(await anext(aiter(socket)))
        await over.wait()

    async with serving(handle, max_held_bytes=LIMIT) as here, await here.raw() as raw:
        await raw.send(request(1, "work", bytes(400)), request(2, "work", bytes(400)))
        await until(lambda: len(taken) == 2)
        # Together with those that run it is more than the limit, and the reset is not read.
        await raw.send(request(3, "work", bytes(400)), reset(3))
        await waiting(here, 1)
        assert await taken[0].respond(b"")
        assert await raw.answer() == (1, b"")
        await waiting(here, 0)
        assert here.only_socket().in_flight == 1
        over.set()


@pytest.mark.parametrize("limits", [{"max_waiting_calls": 2}, {"max_held_bytes": 20}])
async def test_taking_makes_room_for_what_has_not_been_read(limits: dict[str, Any]) -> None:
    gate = asyncio.Event()
    taken: list[bytes] = []

    async def handle(socket: sockrpc.Socket) -> None:
        await gate.wait()
        async for procedure in socket:
            assert isinstance(procedure, sockrpc.Notification)
            taken.append(procedure.payload)

    sent = [b"payload %d" % n for n in range(10)]
    async with serving(handle, **limits) as here, await here.raw() as raw:
        await raw.send(*(notify("note", each) for each in sent))
        await waiting(here, 3 if "max_held_bytes" in limits else 2)
        gate.set()
        await until(lambda: taken == sent)
