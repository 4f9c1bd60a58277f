"""The socket form: a coroutine of one socket that takes its procedures itself, as in the tutorial."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import sockrpc
from examples import both_forms as tutorial
from tests.kit.support import BINARY, PATIENCE, notify, request, reset, serving, started, until


@pytest.mark.parametrize("form", ["app", "handle_socket"])
async def test_the_tutorial_in_both_forms(form: str) -> None:
    async with serving(getattr(tutorial, form)) as here, here.connect() as one, here.connect() as two:
        await until(lambda: len(tutorial.everybody) == 2)
        assert await one.call("uppercase", "hello") == b"HELLO"
        addresses = {await client.call("myip") for client in (one, two)}
        assert addresses == {b"%s:%d" % (host.encode(), port) for host, port in remote_addresses(here.server)}
        pongs = one.on("pong")
        await one.notify("ping", b"\x00")
        assert await anext(pongs) == b"\x00"
        heard = [client.on("message") for client in (one, two)]
        await two.notify("broadcast", "to all")
        assert [await anext(listener) for listener in heard] == [b"to all", b"to all"]
    await until(lambda: len(tutorial.everybody) == 0)


def remote_addresses(server: sockrpc.Server) -> list[tuple[str, int]]:
    return [socket.remote_address[:2] for socket in server.connections]


@pytest.mark.parametrize("form", ["app", "handle_socket"])
@pytest.mark.parametrize("end", ["reset", "lost"])
async def test_the_tutorial_s_long_task_is_aborted(form: str, end: str) -> None:
    async with serving(getattr(tutorial, form)) as here:
        async with here.connect() as client:
            call = await started(client.call("long_runing_task"))
            await until(long_tasks)
            (work,) = long_tasks()
            if end == "reset":
                call.cancel()
            else:
                await client.close()
                with pytest.raises(sockrpc.ConnectionClosed):
                    await call
            await until(work.done)
            assert work.cancelled()
            await until(lambda: here.server.statistics().calls_running == 0)
        statistics = here.server.statistics()
        assert statistics.calls_reset == (end == "reset")
        assert statistics.calls_lost == (end == "lost")
        assert statistics.calls_failed == 0


def long_tasks() -> list[asyncio.Task[Any]]:
    names = ("long_task", "long_running_task")
    return [task for task in asyncio.all_tasks() if getattr(task.get_coro(), "__name__", "") in names]


async def test_the_tutorial_s_long_task_answers_by_itself() -> None:
    async with serving(tutorial.handle_socket) as here, here.connect() as client:
        assert await client.call("long_runing_task") == b"done!"


async def test_procedures_come_in_order_of_arrival() -> None:
    taken: list[str] = []

    async def handle_socket(socket: sockrpc.Socket) -> None:
        async for procedure in socket:
            match procedure:
                case sockrpc.Call(id=id, method=method, payload=payload):
                    taken.append(f"call {id} {method} {payload!r}")
                    await procedure.respond(b"")
                case sockrpc.Notification(event=event, payload=payload):
                    taken.append(f"notification {event} {payload!r}")

    async with serving(handle_socket) as here, await here.raw() as raw:
        await raw.send(
            request(1, "a", b"1"), notify("b", b"2"), request(2, "c", b"3"), notify("d"), request(3, "e")
        )
        assert [await raw.answer() for _ in range(3)] == [(1, b""), (2, b""), (3, b"")]
    assert taken == [
        "call 1 a b'1'",
        "notification b b'2'",
        "call 2 c b'3'",
        "notification d b''",
        "call 3 e b''",
    ]


async def test_taking_slowly_never_stops_reading() -> None:
    may_take = asyncio.Event()

    async def handle_socket(socket: sockrpc.Socket) -> None:
        await may_take.wait()
        async for procedure in socket:
            assert isinstance(procedure, sockrpc.Call)
            await procedure.respond(procedure.method)

    async with serving(handle_socket) as here, await here.raw() as raw:
        await raw.send(*(request(id, str(id)) for id in range(100)))
        await raw.synchronize()
        statistics = here.server.statistics()
        assert (statistics.procedures_waiting, statistics.calls_in_flight) == (100, 100)
        assert (statistics.calls_running, statistics.calls_started) == (0, 0)
        await raw.send(*(reset(id) for id in range(1, 100)))
        await raw.synchronize()
        may_take.set()
        assert await raw.answer() == (0, b"0")
        await raw.synchronize()
        assert here.server.statistics().calls_reset == 99


async def test_cancelling_the_iteration_loses_nothing() -> None:
    taken: list[str] = []

    async def handle_socket(socket: sockrpc.Socket) -> None:
        procedures = aiter(socket)
        for turns in range(12):
            taking = await started(anext(procedures))
            await socket.notify("go")
            for _ in range(turns):
                await asyncio.sleep(0)
            taking.cancel()
            await asyncio.wait([taking])
            procedure = await anext(procedures) if taking.cancelled() else taking.result()
            assert isinstance(procedure, sockrpc.Notification)
            taken.append(procedure.event)

    async with serving(handle_socket) as here, await here.raw() as raw:
        for i in range(12):
            assert await raw.receive() == (BINARY, b"\x01\x02go")
            await raw.send(notify(str(i)))
        assert await raw.closing() == (1000, "")
    assert taken == [str(i) for i in range(12)]


async def test_several_may_iterate_over_one_socket() -> None:
    taken: list[tuple[int, bytes]] = []
    over: list[int] = []
    may_answer = asyncio.Event()

    async def handle_socket(socket: sockrpc.Socket) -> None:
        async def work(number: int) -> None:
            async for call in socket:
                assert isinstance(call, sockrpc.Call)
                taken.append((number, call.payload))
                await may_answer.wait()
                await call.respond(b"")
            over.append(number)

        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(work(number))

    async with serving(handle_socket) as here:
        async with await here.raw() as raw:
            await raw.synchronize()
            for id in range(3):
                await raw.send(request(id, "work", b"%d" % id))
                await until(lambda count=id + 1: len(taken) == count)
            assert {number for number, _ in taken} == {0, 1, 2}
            assert [payload for _, payload in taken] == [b"0", b"1", b"2"]
            may_answer.set()
            assert {await raw.answer() for _ in range(3)} == {(id, b"") for id in range(3)}
            await raw.synchronize()
        await until(lambda: len(over) == 3)


async def test_a_call_that_another_thread_drops_has_failed_and_the_next_one_has_its_turn(
    caplog: pytest.LogCaptureFixture,
) -> None:
    may_drop, has_dropped = threading.Event(), threading.Event()

    def hold(calls: list[Any]) -> None:
        may_drop.wait(PATIENCE)
        calls.clear()
        has_dropped.set()

    async def handle_socket(socket: sockrpc.Socket) -> None:
        calls: list[Any] = [await anext(aiter(socket))]
        threading.Thread(target=hold, args=(calls,)).start()
        async for call in socket:
            await call.respond(b"next")  # type: ignore[union-attr]

    async with serving(handle_socket, max_in_flight=1) as here, await here.raw() as raw:
        # In debug mode a loop refuses what is done to it in another thread.
        asyncio.get_running_loop().set_debug(True)
        await raw.send(request(1, "dropped"), request(2, "next"))
        await raw.synchronize()
        assert here.server.statistics().procedures_waiting == 1
        may_drop.set()
        await raw.wait(asyncio.to_thread(has_dropped.wait, PATIENCE))
        assert await raw.answer() == (2, b"next")
        assert here.server.statistics().calls_failed == 1
        asyncio.get_running_loop().set_debug(False)
    assert "'dropped'" in caplog.text


async def test_the_iterator_ends_when_the_connection_is_lost() -> None:
    log: list[str] = []

    async def handle_socket(socket: sockrpc.Socket) -> None:
        async for _ in socket:
            raise AssertionError("nothing was sent")
        log.append("over")
        async for _ in socket:
            raise AssertionError("nothing was sent")
        log.append("still over")

    async with serving(handle_socket) as here:
        async with await here.raw():
            assert len(here.server.connections) == 1
        await until(lambda: len(log) == 2)
    assert log == ["over", "still over"]


async def test_what_was_notified_before_a_loss_is_still_taken_and_its_calls_are_not() -> None:
    taken: list[bytes] = []
    may_take = asyncio.Event()

    async def handle_socket(socket: sockrpc.Socket) -> None:
        await may_take.wait()
        async for procedure in socket:
            assert isinstance(procedure, sockrpc.Notification)
            taken.append(procedure.payload)

    async with serving(handle_socket) as here:
        async with await here.raw() as raw:
            await raw.send(notify("n", b"1"), request(1, "c", b"call"), notify("n", b"2"))
            await raw.synchronize()
        await until(lambda: not here.server.connections)
        may_take.set()
    assert taken == [b"1", b"2"]


async def test_when_the_coroutine_returns_the_connection_is_closed_with_1000() -> None:
    async def handle_socket(socket: sockrpc.Socket) -> None:
        async for procedure in socket:
            assert isinstance(procedure, sockrpc.Call)
            await procedure.respond(b"the last")
            return

    async with serving(handle_socket) as here, await here.raw() as raw:
        await raw.send(request(1, "a"))
        # The answer precedes the close frame.
        assert await raw.answer() == (1, b"the last")
        assert await raw.closing() == (1000, "")


async def test_when_the_coroutine_raises_the_connection_is_closed_with_1011(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handle_socket(socket: sockrpc.Socket) -> None:
        raise LookupError("secret")

    async with serving(handle_socket) as here, await here.raw() as raw:
        code, reason = await raw.closing()
        assert code == 1011
        assert "secret" not in reason
        # What this server does to one connection it does to no other.
        async with await here.raw() as other:
            assert (await other.closing())[0] == 1011
    assert caplog.text.count("LookupError: secret") == 2


async def test_a_coroutine_that_learns_of_the_loss_by_an_exception_has_not_failed() -> None:
    """Were it logged as an error this test would fail."""

    async def handle_socket(socket: sockrpc.Socket) -> None:
        while True:
            await socket.notify("tick")
            await asyncio.sleep(0)

    async with serving(handle_socket) as here:
        async with await here.raw() as raw:
            assert await raw.receive() == (BINARY, b"\x01\x04tick")
        await until(lambda: not here.server.connections)


@pytest.mark.parametrize("kind", [sockrpc.ConnectionLost, sockrpc.ConnectionClosed])
async def test_a_coroutine_that_learns_of_the_end_of_another_connection_has_failed(
    kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def handle_socket(socket: sockrpc.Socket) -> None:
        raise kind(1006, "of another")

    async with serving(handle_socket) as here, await here.raw() as raw:
        assert await raw.closing() == (1011, "internal error")
    assert "of another" in caplog.text


async def test_a_coroutine_that_fails_after_the_loss_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    async def handle_socket(socket: sockrpc.Socket) -> None:
        async for _ in socket:
            pass
        raise LookupError("after the loss")

    async with serving(handle_socket) as here:
        async with await here.raw():
            pass
        await until(lambda: caplog.records)
    assert "LookupError: after the loss" in caplog.text


async def test_each_connection_has_its_own_coroutine() -> None:
    async def handle_socket(socket: sockrpc.Socket) -> None:
        count = 0
        async for procedure in socket:
            assert isinstance(procedure, sockrpc.Call)
            count += 1
            await procedure.respond(str(count))

    async with serving(handle_socket) as here, here.connect() as one, here.connect() as two:
        assert [await one.call("a"), await one.call("b"), await two.call("c")] == [b"1", b"2", b"1"]
