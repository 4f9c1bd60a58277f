"""Ends that take several turns: the aborts of very many calls, and a close frame that was read before."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import sockrpc
from tests.kit.inside import abort_connection
from tests.kit.support import CLOSE, frame, notify, request, reset, serving, until
from tests.kit.work import Work

# Of what one turn aborts almost eight times as much: the grace ends some turns later.
MANY = 4000
# Far longer than any of this takes, in seconds.
LONG = 20.0


async def test_the_end_of_the_grace_reaches_all_work_that_was_reset_and_runs_on() -> None:
    """What was reset is not in flight any more, so that the close which follows does not find it again."""
    begun: list[sockrpc.Call] = []
    cancelled: list[int] = []
    app = sockrpc.App()

    @app.method("work", run_to_completion=True)
    async def work(call: sockrpc.Call) -> None:
        begun.append(call)
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(call.id)

    limits = {"stop_grace": 0.0, "abort_grace": LONG, "max_in_flight": MANY}
    async with serving(app, **limits) as here, await here.raw() as raw:
        await raw.send(*(request(n, "work") for n in range(MANY)))
        await until(lambda: len(begun) == MANY)
        await raw.send(*(reset(n) for n in range(MANY - 1)))
        await raw.synchronize()
        assert here.only_socket().in_flight == 1
        here.server.close()
        await raw.wait(here.server.wait_closed())
    assert sorted(cancelled) == list(range(MANY))


async def test_a_grace_that_ends_in_the_middle_of_the_aborts_of_a_loss_forgets_none() -> None:
    taken: list[sockrpc.Call] = []
    waiters: list[asyncio.Task[None]] = []

    async def handle(socket: sockrpc.Socket) -> None:
        async for call in socket:
            assert isinstance(call, sockrpc.Call)
            taken.append(call)
            waiters.append(asyncio.ensure_future(call.wait_reset()))

    limits = {"stop_grace": 0.0, "abort_grace": LONG, "max_in_flight": MANY}
    async with serving(handle, **limits) as here, await here.raw() as raw:
        await raw.send(*(request(n, "work") for n in range(MANY)))
        await until(lambda: len(taken) == MANY)
        await asyncio.sleep(0)
        abort_connection(here.only_socket(), "lost")
        here.server.close()
        await raw.wait(here.server.wait_closed())
        await raw.wait(asyncio.gather(*waiters))


@pytest.mark.parametrize("held", ["by a full queue", "by notifications", "for its turn"])
async def test_a_close_frame_that_was_read_already_is_seen_when_the_server_closes(held: str) -> None:
    """Nothing comes behind it: the peer waits for the server to close the line."""
    there = Work()
    app = there.app()
    ended: list[asyncio.Task[None]] = []

    @app.method
    def close(call: sockrpc.Call) -> None:
        ended.append(asyncio.ensure_future(call.socket.close(1000, "enough")))

    @app.method
    def busy(call: sockrpc.Call) -> None:
        until_then = asyncio.get_running_loop().time() + 0.006
        while asyncio.get_running_loop().time() < until_then:
            pass

    @app.on
    async def note(notification: sockrpc.Notification) -> None:
        await there.may_answer.wait()

    limits: dict[str, Any] = {"close_timeout": LONG, "ping_interval": None}
    if held != "for its turn":
        limits |= {"max_in_flight": 1, "max_notifications": 1, "max_waiting_calls": 2}
    async with serving(app, **limits) as here, await here.raw() as raw:
        socket = here.only_socket()
        behind = frame(CLOSE, b"\x03\xe8")
        if held != "for its turn":
            # Calls that wait go with the connection; notifications fill the queue until they have run.
            what = [request(n, "work") if held == "by a full queue" else notify("note") for n in range(20)]
            await raw.send(*what, behind)
            await until(lambda: here.server.statistics().procedures_waiting == 2)
            ended.append(asyncio.ensure_future(socket.close(1000, "enough")))
        else:
            await raw.send(request(1, "close"), *(request(n, "busy") for n in range(2, 20)), behind)
            await until(lambda: ended)
        await raw.wait(ended[0])
        assert (socket.close_code, socket.closed_by) == (1000, "server")
        there.may_answer.set()
