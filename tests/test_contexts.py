"""Context variables: what a handler sees of those of others, however it is started."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

import pytest

import sockrpc
from tests.support import serving, started, until

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
