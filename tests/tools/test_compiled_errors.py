"""What the compiled classes refuse, and what they say of themselves."""

from __future__ import annotations

import asyncio

import pytest

import sockrpc
from sockrpc.peer.call import Call
from sockrpc.peer.names import NameTable
from sockrpc.peer.notification import Notification
from sockrpc.peer.table import Table
from sockrpc.websocket.parser import Parser
from tests.kit.pair import MemoryServer
from tests.kit.support import PATIENCE, notify, request, until


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


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_a_handler_that_ends_the_process_fails_its_call_and_nothing_else(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    app = sockrpc.App()
    app.method("echo")(lambda call: call.payload)

    @app.method("end")
    def end(call: sockrpc.Call) -> None:
        raise error

    async with MemoryServer(app, close_timeout=0.1) as here:
        raw, _ = here.raw()
        raw.send(request(1, "end"))
        with pytest.raises(error):
            await here.settle()
        assert "was ended by the process's own end" in caplog.text
        raw.send(request(2, "echo", b"on"))
        await here.settle()
        assert raw.answers == [(2, b"on")]


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
