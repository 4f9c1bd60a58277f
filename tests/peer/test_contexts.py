"""Context variables: what a handler sees of those of others, however it is started."""

from __future__ import annotations

import asyncio
import time
from contextvars import ContextVar
from typing import Any

import pytest
from websockets.http11 import Request

import sockrpc
from tests.kit.support import serving, started, until

WHO: ContextVar[str] = ContextVar("who", default="nobody")


class Contexts:
    """Methods that set and tell a variable; while `holder` has not been let go, the others wait."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.app = sockrpc.App()
        for function in (self.holder, self.name_me, self.who_am_i):
            self.app.method(function)

    async def holder(self, call: sockrpc.Call) -> str:
        WHO.set("holder")
        await self.gate.wait()
        return WHO.get()

    def name_me(self, call: sockrpc.Call) -> str:
        WHO.set(call.text)
        return WHO.get()

    def who_am_i(self, call: sockrpc.Call) -> str:
        return WHO.get()

    async def call_behind_the_holder(self, here: Any, client: Any, method: str, payload: str = "") -> bytes:
        """Calls that wait for the holder start when its task has ended."""
        self.gate.clear()
        holding = await started(client.call("holder"))
        await until(lambda: here.server.statistics().calls_in_flight == 1)
        waiting = await started(client.call(method, payload))
        await until(lambda: here.server.statistics().calls_in_flight == 2)
        self.gate.set()
        assert await holding == b"holder"
        answer: bytes = await waiting
        return answer


async def test_a_call_that_waited_does_not_see_what_the_one_before_it_has_set() -> None:
    there = Contexts()
    async with serving(there.app, max_in_flight=1) as here, here.connect() as client:
        assert await there.call_behind_the_holder(here, client, "who_am_i") == b"nobody"


async def test_what_a_call_of_one_connection_sets_is_not_seen_on_another() -> None:
    there = Contexts()
    async with (
        serving(there.app, max_in_flight=1) as here,
        here.connect() as one,
        here.connect() as other,
    ):
        assert await there.call_behind_the_holder(here, one, "name_me", "one") == b"one"
        assert await there.call_behind_the_holder(here, other, "who_am_i") == b"nobody"


async def test_what_was_set_before_the_server_began_is_seen_also_by_calls_that_waited() -> None:
    there = Contexts()
    WHO.set("everybody")
    async with serving(there.app, max_in_flight=1) as here, here.connect() as client:
        assert await client.call("who_am_i") == b"everybody"
        assert await there.call_behind_the_holder(here, client, "who_am_i") == b"everybody"


def set_by_header(socket: sockrpc.Socket, request: Request) -> None:
    WHO.set(request.headers["X-User"])


async def set_after_waiting(socket: sockrpc.Socket, request: Request) -> None:
    await asyncio.sleep(0)
    set_by_header(socket, request)


@pytest.mark.parametrize("process_request", [set_by_header, set_after_waiting])
async def test_what_process_request_sets_is_seen_by_the_handlers_of_its_connection_only(
    process_request: Any,
) -> None:
    """Also by those of postponed work, which begins where another connection has used up its turn."""
    app = sockrpc.App()

    def work_too_long() -> None:
        until = time.perf_counter() + 0.006
        while time.perf_counter() < until:
            pass

    @app.method
    def plain(call: sockrpc.Call) -> str:
        work_too_long()
        return WHO.get()

    @app.method
    async def coroutine(call: sockrpc.Call) -> str:
        work_too_long()
        await asyncio.sleep(0)
        return WHO.get()

    @app.method(thread=True)
    def thread(call: sockrpc.Call) -> str:
        return WHO.get()

    async def ask(client: sockrpc.Client) -> set[bytes]:
        calls = [client.call(name) for name in ("plain", "coroutine", "thread") for _ in range(5)]
        return set(await asyncio.gather(*calls))

    async with (
        serving(app, process_request=process_request, blocked_warning=None) as here,
        here.connect(headers={"X-User": "alice"}) as alice,
        here.connect(headers={"X-User": "bob"}) as bob,
    ):
        assert await asyncio.gather(ask(alice), ask(bob)) == [{b"alice"}, {b"bob"}]
        assert await ask(bob) == {b"bob"}


async def test_what_a_plain_handler_sets_is_not_seen_by_the_next_call_and_what_on_connect_sets_is() -> None:
    app = sockrpc.App()
    seen: list[str] = []

    @app.on_connect
    async def connected(socket: sockrpc.Socket) -> None:
        await asyncio.sleep(0)
        WHO.set("connected")

    @app.on_disconnect
    def gone(socket: sockrpc.Socket) -> None:
        seen.append(WHO.get())

    @app.method
    def plain(call: sockrpc.Call) -> str:
        before = WHO.get()
        WHO.set("left behind")
        return before

    @app.on
    def note(notification: sockrpc.Notification) -> None:
        seen.append(WHO.get())
        WHO.set("left behind")

    async with serving(app) as here:
        async with here.connect() as client:
            assert [await client.call("plain") for _ in range(3)] == [b"connected"] * 3
            await client.notify("note")
            await client.notify("note")
            assert await client.call("plain") == b"connected"
        await until(lambda: len(seen) == 3)
    assert seen == ["connected"] * 3
    assert WHO.get() == "nobody"


async def test_undo_hooks_see_the_variables_of_their_handler() -> None:
    app = sockrpc.App()
    seen: list[str] = []

    @app.method
    async def work(call: sockrpc.Call) -> None:
        WHO.set("worker")
        call.on_abort(lambda: seen.append(WHO.get()))
        await asyncio.Event().wait()

    async with serving(app) as here, here.connect() as client:
        with pytest.raises(TimeoutError):
            await client.call("work", timeout=0.01)
        await until(lambda: seen == ["worker"])


async def test_a_call_can_not_be_called() -> None:
    app = sockrpc.App()

    @app.method
    async def confused(call: Any) -> str:
        await asyncio.sleep(0)
        with pytest.raises(TypeError, match="not callable"):
            call(None)
        return "in order"

    async with serving(app) as here, here.connect() as client:
        assert await client.call("confused") == b"in order"
        assert here.server.statistics().calls_in_flight == 0
