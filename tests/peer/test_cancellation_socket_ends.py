"""Cancellation in the form of one coroutine a socket: ends of connections, coroutines and servers."""

from __future__ import annotations

import asyncio

import pytest

import sockrpc
from tests.kit.support import CLOSE, frame, notify, request, serving, until
from tests.kit.work import Work, for_each


async def cancel_oneself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


@pytest.mark.both_protocols
@pytest.mark.row(14)
@pytest.mark.parametrize("ending", ["close frame", "fin", "rst"])
async def test_the_iterator_ends_with_the_connection_after_what_was_received(ending: str) -> None:
    """Calls are aborted, of course; notifications are still delivered."""
    delivered: list[object] = []
    may_take, ended = asyncio.Event(), asyncio.Event()

    async def handle_socket(socket: sockrpc.Socket) -> None:
        await may_take.wait()
        delivered.extend([procedure.text async for procedure in socket])
        ended.set()

    async with serving(handle_socket) as here, await here.raw() as raw:
        await raw.send(notify("a", b"1"), request(1, "b", b"2"), notify("c", b"3"), notify("d", b"4"))
        await raw.synchronize()
        if ending == "close frame":
            await raw.send(frame(CLOSE))
        elif ending == "fin":
            await raw.close()
        else:
            raw.reset_line()
        await until(lambda: not here.server.connections)
        assert here.server.statistics().calls_lost == 1
        may_take.set()
        await ended.wait()
    assert delivered == ["1", "3", "4"]


@pytest.mark.both_protocols
@pytest.mark.row(14)
async def test_an_iterator_that_waits_ends_at_once_with_the_connection() -> None:
    """Nobody polls for it; and the coroutine itself is not cancelled."""
    log: list[object] = []

    async def handle_socket(socket: sockrpc.Socket) -> None:
        assert [procedure async for procedure in socket] == []
        task = asyncio.current_task()
        assert task is not None
        log.append(task.cancelling())
        with pytest.raises(sockrpc.ConnectionLost):
            await socket.notify("too late")

    async with serving(handle_socket) as here:
        async with await here.raw() as raw:
            await raw.synchronize()
        await until(lambda: log)
    assert log == [0]


@pytest.mark.both_protocols
@pytest.mark.row(7, 14)
@pytest.mark.parametrize("how", ["returns", "raises", "raises CancelledError", "is cancelled"])
async def test_the_end_of_the_coroutine_closes_the_connection_and_aborts_its_calls(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One more way to lose the connection; row 7: CancelledError is no success there either."""
    work = Work()

    async def handle_socket(socket: sockrpc.Socket) -> None:
        call = await anext(aiter(socket))
        assert isinstance(call, sockrpc.Call)
        call.spawn_and_abort_on_reset(work(call))
        await until(lambda: work.calls)
        if how == "raises":
            raise ValueError
        if how == "raises CancelledError":
            raise asyncio.CancelledError
        if how == "is cancelled":
            await cancel_oneself()

    async with serving(handle_socket) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        assert (await raw.closing())[0] == (1000 if how == "returns" else 1011)
        await raw.close()
        await until(lambda: here.server.statistics().calls_running == 0)
        assert here.server.statistics().calls_lost == 1
    assert (work.cancels, work.reasons) == ([1], ["lost"])
    assert (caplog.records == []) == (how == "returns")


@pytest.mark.both_protocols
@pytest.mark.row(14, 21)
async def test_a_stop_waits_for_calls_that_were_taken_and_aborts_the_others() -> None:
    """Row 14, row 21: within the grace; then it ends the iteration."""
    calls: list[sockrpc.Call] = []
    ended = asyncio.Event()

    async def handle_socket(socket: sockrpc.Socket) -> None:
        async for procedure in socket:
            assert isinstance(procedure, sockrpc.Call)
            calls.append(procedure)
        ended.set()

    async with (
        serving(handle_socket, stop_grace=60, max_in_flight=1) as here,
        await here.raw() as raw,
    ):
        await raw.send(request(1, "taken"), request(2, "not taken"))
        await raw.synchronize()
        await until(lambda: calls)
        here.server.close()
        await raw.send(request(3, "too late"))
        await raw.synchronize()
        assert await calls[0].respond(b"answer")
        assert await raw.answer() == (1, b"answer")
        assert await raw.closing() == (1001, "server stopping")
        await ended.wait()
        assert here.server.statistics().calls_stopped == 1
        assert len(calls) == 1
        calls.clear()


@pytest.mark.both_protocols
@pytest.mark.row(14)
async def test_the_end_of_the_grace_aborts_calls_that_were_taken() -> None:
    """Those without work too."""
    work = Work()
    calls: list[sockrpc.Call] = []

    def take(call: sockrpc.Call) -> None:
        calls.append(call)
        if call.method == "spawn":
            call.spawn_and_abort_on_reset(work(call))

    async with serving(for_each(take), stop_grace=0.05) as here, await here.raw() as raw:
        await raw.send(request(1, "hold"), request(2, "spawn"))
        await until(lambda: work.calls)
        here.server.close()
        assert await raw.closing() == (1001, "server stopping")
        await raw.close()
        await here.server.wait_closed()
        assert [call.abort_reason for call in calls] == ["stop", "stop"]
        assert here.server.statistics().calls_stopped == 2
        calls.clear()
    assert work.cancels == [1]
