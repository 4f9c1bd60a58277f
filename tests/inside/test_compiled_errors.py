"""What the compiled classes refuse, and what they say of themselves."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

import pytest

import sockrpc
from sockrpc.peer.call import Call
from sockrpc.peer.names import NameTable
from sockrpc.peer.notification import Notification
from sockrpc.testing.wire import Table
from sockrpc.websocket.parser import Parser
from tests.kit.handlers import EAGER
from tests.kit.pair import MemoryServer
from tests.kit.support import PATIENCE, notify, request, reset, until


@pytest.mark.parametrize("kind", [Call, Notification])
def test_a_procedure_is_made_by_a_server_only(kind: type) -> None:
    with pytest.raises(TypeError, match="made by the server that received it"):
        kind()


def test_a_name_that_stands_twice_is_refused() -> None:
    class Twice(dict[bytes, int]):
        def items(self) -> list[tuple[bytes, int]]:  # type: ignore[override]
            return [(b"name", 1), (b"name", 2)]

    with pytest.raises(ValueError, match="b'name' stands twice"):
        NameTable(Twice())


def test_a_parser_has_one_of_two_roles() -> None:
    with pytest.raises(ValueError, match="role is 'server' or 'client', not 'peer'"):
        Parser("peer", 1000)


def test_a_table_tells_how_many_are_in_flight() -> None:
    table = Table()
    entries = [table.new(), table.new()]
    assert len(table) == len(entries)
    assert table.take(entries.pop())
    assert len(table) == 1
    del entries
    assert len(table) == 0


@pytest.mark.parametrize("size", [1, 20_000])
async def test_a_transport_that_was_closed_under_us_is_left_to_tell_of_its_loss(size: int) -> None:
    app = sockrpc.App()
    app.method("echo")(lambda call: call.payload)
    async with MemoryServer(app, close_timeout=0.1) as here:
        raw, pair = here.raw()
        tried: list[int] = []

        def write(data: bytes) -> None:
            tried.append(len(data))
            raise RuntimeError("the handle is closed")

        pair.server.write = write  # type: ignore[method-assign]
        raw.send(request(1, "echo", bytes(size)))
        await here.settle()
        assert tried
        assert raw.answers == []


def use_up_the_turn() -> None:
    """Leave what follows to a later turn, which comes out of a callback of the event loop."""
    until = time.perf_counter() + 0.01
    while time.perf_counter() < until:
        pass


@pytest.mark.parametrize("late", [False, True], ids=["at once", "in a later turn"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_a_handler_that_ends_the_process_fails_its_call_and_nothing_else(
    error: type[BaseException], late: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = sockrpc.App()
    app.method("slow")(lambda call: use_up_the_turn())
    app.method("echo")(lambda call: call.payload)

    @app.method("end")
    def end(call: sockrpc.Call) -> None:
        raise error

    async with MemoryServer(app, close_timeout=0.1) as here:
        raw, _ = here.raw()
        raw.send(request(3, "slow") if late else b"", request(1, "end"))
        await here.settle_past(error)
        assert "was ended by the process's own end" in caplog.text
        raw.send(request(2, "echo", b"on"))
        await here.settle()
        assert raw.answers == [(3, b"")] * late + [(2, b"on")]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_a_notification_handler_that_ends_the_process_is_over(error: type[BaseException]) -> None:
    app = sockrpc.App()
    app.method("echo")(lambda call: call.payload)

    @app.on("end")
    def end(notification: sockrpc.Notification) -> None:
        raise error

    async with MemoryServer(app, close_timeout=0.1) as here:
        raw, _ = here.raw()
        raw.send(notify("end"))
        await here.settle_past(error)
        raw.send(request(1, "echo", b"on"))
        await here.settle()
        assert raw.answers == [(1, b"on")]
        statistics = here.server.statistics()
        assert (statistics.notifications_running, statistics.notifications_failed) == (0, 0)


@pytest.mark.parametrize("when", ["its class", "its bytes"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_a_result_that_ends_the_process_when_it_is_looked_at_fails_its_call_and_nothing_else(
    error: type[BaseException], when: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Class:
        @property
        def __class__(self) -> Any:
            raise error

    class Bytes(bytes):
        def __bytes__(self) -> bytes:
            raise error

    app = sockrpc.App()
    app.method("echo")(lambda call: call.payload)
    app.method("end")(lambda call: Class() if when == "its class" else Bytes())
    async with MemoryServer(app, close_timeout=0.1) as here:
        raw, _ = here.raw()
        raw.send(request(1, "end"))
        await here.settle_past(error)
        assert "was ended by the process's own end" in caplog.text
        raw.send(request(2, "echo", b"on"))
        await here.settle()
        assert raw.answers == [(2, b"on")]
        statistics = here.server.statistics()
        assert (statistics.calls_failed, statistics.calls_running) == (1, 0)


@pytest.mark.skipif(not EAGER, reason="on 3.11 a first step is the event loop's own")
@pytest.mark.parametrize("late", [False, True], ids=["at once", "in a later turn"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_an_undo_hook_that_ends_the_process_is_the_last_and_its_call_is_over(
    error: type[BaseException], late: bool
) -> None:
    undone: list[str] = []
    calls: list[sockrpc.Call] = []

    def end() -> None:
        undone.append("last")
        raise error

    async def handle(socket: sockrpc.Socket) -> None:
        async for call in socket:
            calls.append(call)
            if call.method == "slow":
                call.on_abort(use_up_the_turn)
            else:
                call.on_abort(undone.append, "first")
                call.on_abort(end)

    # The constructor of the eager task raises, so nobody but asyncio ever sees that task.
    untold: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: untold.append(context["message"]))
    async with MemoryServer(handle, close_timeout=0.1) as here:
        raw, _ = here.raw()
        raw.send(request(1, "slow"), request(2, "work"))
        await here.settle()
        raw.send(reset(1) if late else b"", reset(2))
        await here.settle_past(error)
        assert undone == ["last"]
        raw.send(reset(1))
        await here.settle()
        assert here.server.statistics().calls_running == 0
        gc.collect()
    assert set(untold) <= {"Task exception was never retrieved"}


async def test_what_waits_for_nothing_more_does_not_wait() -> None:
    app = sockrpc.App()
    async with MemoryServer(app, close_timeout=0.1) as here:
        client, pair = here.connect()
        loop = asyncio.get_running_loop()
        subscription = client._connection.subscribe(b"event")
        subscription.cancel()
        assert subscription.wait(loop).done()
        async with asyncio.timeout(PATIENCE):
            await client._connection.drained()
        connection = pair.server.protocol
        pair.cut()
        await here.settle()
        await until(lambda: pair.server.lost)
        assert connection.wait_procedure().done()


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
async def test_a_notification_handler_that_fails_after_its_first_step_is_logged(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    app = sockrpc.App()

    @app.on("event")
    async def fail(notification: sockrpc.Notification) -> None:
        await asyncio.sleep(0)
        raise error

    async with MemoryServer(app, close_timeout=0.1) as here:
        raw, _ = here.raw()
        raw.send(notify("event"))
        await here.settle()
        assert "the handler of event 'event'" in caplog.text
