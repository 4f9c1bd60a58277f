"""`async for client in connect(uri)` in sockrpc.v1: servers that take leave, and applications that refuse."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator

import pytest

import sockrpc
import sockrpc.dial.reconnecting
from sockrpc import Code, RPCError
from tests.kit.support import PATIENCE, V1, serving, started, until


@pytest.fixture(autouse=True)
def delays(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Each delay that was drawn."""
    monkeypatch.setattr(sockrpc.dial.reconnecting, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(sockrpc.dial.reconnecting, "LONGEST_DELAY", 0.01)
    drawn: list[float] = []
    backoff = sockrpc.dial.reconnecting.backoff

    def recorded() -> Iterator[float]:
        for delay in backoff():
            drawn.append(delay)
            yield delay

    monkeypatch.setattr(sockrpc.dial.reconnecting, "backoff", recorded)
    return drawn


class Slow:
    """An app whose calls end when the test says so."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.calls = 0
        self.app = sockrpc.App()
        self.app.method("slow")(self.slow)

    async def slow(self, call: sockrpc.Call) -> bytes:
        self.calls += 1
        await self.go.wait()
        return b"done"


async def test_the_next_connection_is_made_at_once_while_the_old_one_finishes_what_runs(
    delays: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sockrpc.client")
    slow = Slow()
    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(PATIENCE):
        first = await stack.enter_async_context(serving(slow.app, stop_grace=3600.0))
        clients = aiter(first.connect(protocols=V1))
        old = await anext(clients)
        calls = [await started(old.call("slow")) for _ in range(3)]
        await until(lambda: slow.calls == 3)
        # Longer than a connection must last for that.
        await asyncio.sleep(0.002)
        assert not old.closing
        leaving = await started(old.wait_closing())
        first.server.close()
        await leaving
        assert old.closing
        with pytest.raises(RPCError) as refused:
            await old.call("slow")
        assert (refused.value.code, refused.value.outcome) == (Code.UNAVAILABLE, sockrpc.Outcome.NOT_STARTED)
        await until(lambda: not first.server.sockets)

        second = await sockrpc.serve(slow.app, "127.0.0.1", first.port)
        stack.push_async_callback(second.__aexit__, None, None, None)
        new = await anext(clients)
        assert delays == []
        assert new is not old
        assert not new.closing
        assert [call.done() for call in calls] == [False] * 3
        slow.go.set()
        # The first server goes as soon as they are answered.
        assert await asyncio.gather(*calls) == [b"done"] * 3
        await first.server.wait_closed()
        await old.wait_closed()
        assert await new.call("slow") == b"done"
        await clients.aclose()
        with pytest.raises(sockrpc.ConnectionClosed):
            await new.call("slow")
    told = [record.getMessage() for record in caplog.records if record.name == "sockrpc.client"]
    assert told == [f"the server at ws://127.0.0.1:{first.port}/socket takes leave; connecting again"]


async def test_a_body_that_comes_back_after_the_end_of_the_farewell_goes_on_at_once_too(
    delays: list[float],
) -> None:
    slow = Slow()
    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(PATIENCE):
        first = await stack.enter_async_context(serving(slow.app))
        clients = aiter(first.connect(protocols=V1))
        old = await anext(clients)
        await asyncio.sleep(0.002)  # longer than a connection must last for that
        first.server.close()
        await old.wait_closed()
        second = await sockrpc.serve(slow.app, "127.0.0.1", first.port)
        stack.push_async_callback(second.__aexit__, None, None, None)
        new = await anext(clients)
        assert delays == []
        assert not new.closing
        await clients.aclose()


async def test_a_server_that_always_takes_leave_is_not_asked_without_a_pause(
    delays: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockrpc.dial.reconnecting, "FIRST_DELAY", 0.3)
    app = sockrpc.App()
    slow = Slow()
    app.method("slow")(slow.slow)
    async with serving(app, stop_grace=3600.0) as here, asyncio.timeout(PATIENCE):
        clients = aiter(here.connect(protocols=V1))
        client = await anext(clients)
        call = await started(client.call("slow"))
        await until(lambda: slow.calls)
        here.server.close()
        await client.wait_closing()
        async with sockrpc.serve(app, "127.0.0.1", here.port):
            await anext(clients)
            assert len(delays) == 1
            # The old connection goes on all the same.
            slow.go.set()
            assert await call == b"done"
            await clients.aclose()


@pytest.mark.parametrize("how", ["aclose", "dropped"])
async def test_what_still_runs_on_old_connections_ends_with_the_iterator(how: str) -> None:
    slow = Slow()
    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(PATIENCE):
        first = await stack.enter_async_context(serving(slow.app, stop_grace=3600.0))
        clients = aiter(first.connect(protocols=V1))
        old = await anext(clients)
        call = await started(old.call("slow"))
        await until(lambda: slow.calls)
        await asyncio.sleep(0.002)  # longer than a connection must last for that
        first.server.close()
        await old.wait_closing()
        second = await sockrpc.serve(slow.app, "127.0.0.1", first.port)
        stack.push_async_callback(second.__aexit__, None, None, None)
        await anext(clients)
        if how == "aclose":
            await clients.aclose()
        else:
            del clients
        with pytest.raises(sockrpc.ConnectionClosed):
            await call
        await until(lambda: not second.connections)


async def test_a_server_of_the_first_protocol_takes_no_leave_before_the_end() -> None:
    slow = Slow()
    async with (
        serving(slow.app) as here,
        asyncio.timeout(PATIENCE),
        here.connect(protocols=(sockrpc.SUBPROTOCOL,)) as client,
    ):
        call = await started(client.call("slow"))
        await until(lambda: slow.calls)
        leaving = await started(client.wait_closing())
        here.server.close()
        await until(lambda: not here.server.sockets)
        assert (leaving.done(), client.closing) == (False, False)
        slow.go.set()
        assert await call == b"done"
        await leaving
        assert not client.closing
        # It is known by now.
        await client.wait_closing()


async def test_a_client_that_comes_while_the_server_stops_comes_again() -> None:
    app = sockrpc.App()
    entering, go = asyncio.Event(), asyncio.Event()

    @app.on_connect
    async def enter(_: sockrpc.Socket) -> None:
        entering.set()
        await go.wait()

    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(PATIENCE):
        first = await stack.enter_async_context(serving(app))
        clients = aiter(first.connect(protocols=V1))
        step = await started(anext(clients))
        await entering.wait()
        first.server.close()
        go.set()
        await first.server.wait_closed()
        second = await sockrpc.serve(app, "127.0.0.1", first.port)
        stack.push_async_callback(second.__aexit__, None, None, None)
        client = await step
        while not second.connections:
            client = await anext(clients)
        assert not client.closing
        await clients.aclose()


# Refusals of the application


def refusing(*errors: Exception) -> sockrpc.App:
    """An app that refuses as many connections as there are errors."""
    app = sockrpc.App()
    left = list(errors)
    app.method("echo")(lambda call: call.payload)

    @app.on_connect
    def enter(_: sockrpc.Socket) -> None:
        if left:
            raise left.pop(0)

    return app


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED])
async def test_a_refusal_that_may_pass_is_tried_again(code: Code, delays: list[float]) -> None:
    app = refusing(RPCError(code, "not now"), RPCError(code, "not now"))
    async with serving(app) as here, asyncio.timeout(PATIENCE):
        async for client in here.connect(protocols=V1):
            assert await client.call("echo", "x") == b"x"
            break
        assert len(delays) == 2


@pytest.mark.parametrize(
    "code",
    [
        Code.UNAUTHENTICATED,
        Code.PERMISSION_DENIED,
        Code.INVALID_ARGUMENT,
        Code.INTERNAL,
        # A TimeoutError and an OSError, which it must not be taken for.
        Code.DEADLINE_EXCEEDED,
        200,
    ],
)
async def test_a_refusal_that_stays_is_raised(code: Code | int, delays: list[float]) -> None:
    async with serving(refusing(RPCError(code, "never"))) as here, asyncio.timeout(PATIENCE):
        with pytest.raises(RPCError, match="never") as raised:
            await anext(aiter(here.connect(protocols=V1)))
        assert raised.value.code == code
        assert raised.value.received
        assert delays == []


async def test_a_wait_that_is_cancelled_goes_on_with_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockrpc.dial.reconnecting, "FIRST_DELAY", 0.2)
    monkeypatch.setattr(sockrpc.dial.reconnecting, "LONGEST_DELAY", 0.2)
    async with serving(refusing(RPCError(Code.UNAVAILABLE))) as here, asyncio.timeout(PATIENCE):
        loop = asyncio.get_running_loop()
        began = loop.time()
        clients = aiter(here.connect(protocols=V1))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await anext(clients)
        await anext(clients)
        assert loop.time() - began >= 0.09
        await clients.aclose()
