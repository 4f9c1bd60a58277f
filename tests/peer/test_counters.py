"""Whatever is created in the compiled core is freed: debug builds count it."""

from __future__ import annotations

import asyncio
import gc

import pytest

import sockrpc
from sockrpc._debug import counters, is_debug, live
from tests.kit.loops import LOOPS, new_event_loop
from tests.kit.support import frame, request, reset, serving, started

counting = pytest.mark.skipif(not is_debug(), reason="only debug builds count: SOCKRPC_DEBUG=1, make asan")


async def churn(rounds: int) -> None:
    app = sockrpc.App()
    app.method("echo")(lambda call: call.payload)

    @app.method("wait")
    async def wait(call: sockrpc.Call) -> None:
        call.on_abort(list)
        await asyncio.get_running_loop().create_future()

    app.on("event")(lambda notification: None)
    async with serving(app) as here:
        for number in range(rounds):
            raw = await here.raw()
            client = await here.connect()
            waiting = [await started(client.call("wait")) for _ in range(5)]
            listener = client.on("event")
            await client.notify("event", b"payload")
            assert await client.call("echo", bytes(number * 100)) == bytes(number * 100)
            await raw.send(
                request(1, "wait"), request(2, "echo", b"2"), reset(1), frame(2, b"\x02", final=False)
            )
            if number % 2:
                raw.reset_line()
            else:
                assert await raw.answer() == (2, b"2")
                await raw.synchronize()
            waiting[0].cancel()
            await client.close()
            await asyncio.gather(*waiting, return_exceptions=True)
            await listener.aclose()
            await raw.close()


@counting
@pytest.mark.parametrize("kind", LOOPS)
def test_everything_that_was_created_is_freed_after_connections_of_all_kinds(kind: str) -> None:
    def play(rounds: int) -> None:
        loop = new_event_loop(kind)
        try:
            loop.run_until_complete(churn(rounds))
        finally:
            loop.close()
        gc.collect()

    play(1)
    before, made = live(), counters()
    play(20)
    assert live() == before
    # And it was counted at all.
    created = {name: counters()[name][0] - made[name][0] for name in made}
    for name in (
        "Call",
        "OutgoingCall",
        "Notification",
        "Parser",
        "Peer",
        "blocks",
        "bytes",
    ):
        assert created[name] >= 20, (name, created)
    for name in (
        "RequestTable",
        "ProcedureQueue",
        "Subscription",
        "LoopContext",
        "Service",
        "Handler",
        "Settings",
    ):
        assert created[name] >= 1, (name, created)


def test_a_release_build_counts_nothing() -> None:
    assert bool(counters()) == is_debug()
    assert bool(live()) <= is_debug()
