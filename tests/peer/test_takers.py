"""Several tasks that iterate over one socket, and threads that notify over it."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from typing import Any

import pytest

import sockrpc
from tests.kit.inside import has_ended, working
from tests.kit.support import notify, request, serving, until


async def test_a_procedure_wakes_one_of_the_tasks_that_wait() -> None:
    woken: list[int] = []
    count = 50

    async def handle(socket: sockrpc.Socket) -> None:
        async def take(number: int) -> None:
            iterator = aiter(socket)
            while True:
                waiting = asyncio.ensure_future(anext(iterator))
                waiting.add_done_callback(lambda _: woken.append(number))
                try:
                    procedure: Any = await waiting
                except StopAsyncIteration:
                    return
                await procedure.respond(b"%d" % number)

        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(take(number))

    async with serving(handle) as here, here.connect() as client:
        answers = [int(await client.call("x")) for _ in range(2 * count)]
        # They take turns: who waits longest is the next.
        assert answers == [*range(count), *range(count)]
        assert woken == answers
        together = await asyncio.gather(*(client.call("x") for _ in range(2 * count)))
        # Which of them answers how many is left to the turns that they take.
        assert {int(answer) for answer in together} <= {*range(count)}


async def test_of_very_many_tasks_each_is_woken_by_those_before_it() -> None:
    count = 200
    taken: list[Any] = []
    all_taken = asyncio.Event()

    async def handle(socket: sockrpc.Socket) -> None:
        async def take() -> None:
            # It comes back for no other before all have one.
            taken.append(await anext(aiter(socket)))
            await all_taken.wait()

        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(take())

    async with serving(handle) as here, await here.raw() as raw:
        await raw.synchronize()
        await raw.send(*[notify("x")] * count)
        await until(lambda: len(taken) == count)
        all_taken.set()
        await raw.closing()


async def test_a_task_that_is_cancelled_as_it_is_woken_leaves_the_procedure_to_the_next() -> None:
    """However often that happens: far more often than tasks are woken at a time."""
    rounds = 200

    async def handle(socket: sockrpc.Socket) -> None:
        iterator = aiter(socket)
        while True:
            first, second = (asyncio.ensure_future(anext(iterator)) for _ in range(2))
            # Cancelled in the very iteration in which it is woken, before it runs.
            while not (here.server.statistics().procedures_waiting or has_ended(socket)):
                await asyncio.sleep(0)
            first.cancel()
            await asyncio.wait([first])
            # Where a loop has let it run before, it has taken the only one.
            taker = second if first.cancelled() else first
            try:
                procedure: Any = await taker
            except StopAsyncIteration:
                return
            finally:
                second.cancel()
                await asyncio.wait([second])
            await procedure.respond(b"taken")

    async with serving(handle) as here, here.connect() as client:
        for _ in range(rounds):
            assert await client.call("x", timeout=10) == b"taken"


@pytest.mark.parametrize("returns", [False, True], ids=["waits", "returns"])
async def test_all_tasks_end_with_what_a_lost_connection_has_left(returns: bool) -> None:
    """Also those that waited for another turn, in which nothing was left for them."""
    gate = asyncio.Event()
    taken: list[Any] = []
    tasks: list[asyncio.Task[None]] = []

    async def handle(socket: sockrpc.Socket) -> None:
        async def take() -> None:
            await gate.wait()
            async for procedure in socket:
                taken.append(procedure)
                turn = time.perf_counter() + 0.002
                while time.perf_counter() < turn:
                    pass

        tasks.extend(asyncio.ensure_future(take()) for _ in range(100))
        await asyncio.sleep(0)
        await gate.wait()
        if not returns:
            await asyncio.wait(tasks)

    async with serving(handle, blocked_warning=None) as here, await here.raw() as raw:
        await raw.send(*[notify("x")] * 20)
        await until(lambda: here.server.statistics().procedures_waiting == 20)
        raw.reset_line()
        await until(lambda: not here.server.connections)
        gate.set()
        await until(lambda: all(task.done() for task in tasks))
        assert len(taken) < 20 if returns else len(taken) == 20
        await until(lambda: not working(here.server))


async def test_a_procedure_finds_a_task_however_many_are_cancelled_as_they_are_woken_for_it() -> None:
    async def handle(socket: sockrpc.Socket) -> None:
        tasks = [asyncio.ensure_future(anext(aiter(socket))) for _ in range(100)]
        while not here.server.statistics().procedures_waiting:
            await asyncio.sleep(0)
        # Each wakes the next as it gives up, which is cancelled before it runs.
        for each in tasks[:80]:
            each.cancel()
            await asyncio.sleep(0)
        while not (took := [each for each in tasks if each.done() and not each.cancelled()]):
            await asyncio.sleep(0)
        procedure: Any = took[0].result()
        await procedure.respond(b"taken")
        for each in tasks:
            each.cancel()
        await asyncio.wait(tasks)

    async with serving(handle) as here, here.connect() as client:
        assert await client.call("x", timeout=10) == b"taken"


async def test_tasks_that_stop_waiting_are_forgotten() -> None:
    done, may_call = asyncio.Event(), asyncio.Event()

    async def handle(socket: sockrpc.Socket) -> None:
        for _ in range(1000):
            waiting = asyncio.ensure_future(anext(aiter(socket)))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            assert waiting.cancelled()
        gc.collect()
        cancelled = [
            each for each in gc.get_objects() if isinstance(each, asyncio.Future) and each.cancelled()
        ]
        assert len(cancelled) < 100
        may_call.set()
        async for procedure in socket:
            assert isinstance(procedure, sockrpc.Call)
            await procedure.respond(b"taken")
            done.set()

    async with serving(handle) as here, here.connect() as client:
        await may_call.wait()
        assert await client.call("x", timeout=10) == b"taken"
        assert done.is_set()


# Threads


async def test_what_a_thread_notifies_comes_in_order_and_before_its_answer() -> None:
    app = sockrpc.App()

    @app.method(thread=True)
    def work(call: sockrpc.Call) -> str:
        told = [call.socket.notify_nowait("progress", f"{call.text}.{n}") for n in range(100)]
        return str(all(told))

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(*(request(id, "work", b"%d" % id) for id in range(4)))
        heard: dict[bytes, list[int]] = {}
        ended = 0
        while ended < 4:
            _, data = await raw.receive()
            if data[0] == 4:
                assert data[5:] == b"True"
                ended += 1
                assert len(heard[b"%d" % int.from_bytes(data[1:5])]) == 100
            else:
                thread, _, number = data[len(b"\1\x08progress") :].partition(b".")
                heard.setdefault(thread, []).append(int(number))
        assert heard == {b"%d" % id: list(range(100)) for id in range(4)}


async def test_a_thread_that_is_faster_than_the_loop_hears_false_and_holds_so_much_only() -> None:
    app = sockrpc.App()
    limits = {"output_low_bytes": 10, "output_high_bytes": 100, "output_max_bytes": 10_000}
    results: list[bool] = []
    blocked, go_on = threading.Event(), threading.Event()

    @app.method(thread=True)
    def work(call: sockrpc.Call) -> None:
        blocked.wait(30)
        results.extend(call.socket.notify_nowait("x", bytes(999)) for _ in range(100))
        go_on.set()

    @app.method
    def block(call: sockrpc.Call) -> None:
        # The loop takes nothing while the thread notifies.
        blocked.set()
        go_on.wait(30)

    async with serving(app, blocked_warning=None, **limits) as here, here.connect() as client:
        listener = client.on("x")
        await asyncio.gather(client.call("work", timeout=30), client.call("block", timeout=30))
        # 1,000 bytes each: those up to the limit, and the one that passes it.
        assert results == [True] * 11 + [False] * 89
        for _ in range(11):
            assert len(await anext(listener)) == 999


async def test_what_needs_the_loop_is_a_usage_error_in_a_thread() -> None:
    app = sockrpc.App()
    errors: list[str] = []

    @app.method(thread=True)
    def work(call: sockrpc.Call) -> None:
        async def nothing() -> None:
            pass

        with pytest.raises(sockrpc.UsageError) as spawned:
            call.spawn_and_abort_on_reset(nothing())
        with pytest.raises(sockrpc.UsageError) as notified:
            asyncio.run(call.socket.notify("x"))
        errors.extend(str(each.value) for each in (spawned, notified))

    async with serving(app) as here, here.connect() as client:
        await client.call("work", timeout=30)
        await until(lambda: len(errors) == 2)
    assert "thread" in errors[0]
    assert "event loop" in errors[1]


async def test_a_socket_that_is_over_has_nothing_more_for_those_who_iterate_late() -> None:
    sockets: list[sockrpc.Socket] = []

    async def handle(socket: sockrpc.Socket) -> None:
        sockets.append(socket)

    async with serving(handle) as here:
        async with here.connect() as client:
            await client.wait_closed()
        await until(lambda: here.server.statistics().connections == 0)
        assert [each async for each in sockets[0]] == []
        assert sockets[0].in_flight == 0
        assert not sockets[0].notify_nowait("x")
        with pytest.raises(sockrpc.ConnectionClosed):
            await sockets[0].notify("x")
        await sockets[0].close()
