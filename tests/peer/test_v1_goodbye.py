"""Stops and losses of `sockrpc.v1` with calls that nobody ends, and calls both ways at the limits."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

import sockrpc
from sockrpc import Code, Outcome, RPCError
from tests.kit.support import serving, until
from tests.kit.v1_peer import NESTED, V1, V1Peer, opened, request, reset


def keeping(kept: list[sockrpc.Call]) -> Any:
    async def handle(socket: sockrpc.Socket) -> None:
        async for call in socket:
            assert isinstance(call, sockrpc.Call)
            kept.append(call)

    return handle


async def test_a_call_that_the_application_keeps_gets_its_end_before_the_goodbye() -> None:
    kept: list[sockrpc.Call] = []
    async with serving(keeping(kept), stop_grace=0.05, abort_grace=0.05) as there:
        peer = await V1Peer.meet(there.port)
        await peer.say(request(1, "work"))
        await until(lambda: kept)
        there.server.close()
        heard = [await peer.hear() for _ in range(4)]
        assert heard[0][:2] == (11, Code.UNAVAILABLE)
        assert heard[1][:4] == (9, 1, Code.UNAVAILABLE, 0)
        assert heard[2][:3] == (11, Code.UNAVAILABLE, 0)
        assert heard[3][:2] == ("close", 1001)
        await peer.close()
        await there.server.wait_closed()
        assert there.server.statistics().calls_running == 0


async def test_a_connection_whose_application_keeps_an_aborted_call_is_forgotten() -> None:
    kept: list[sockrpc.Call] = []
    async with serving(keeping(kept)) as there:
        peer = await V1Peer.meet(there.port)
        await peer.say(request(1, "work"))
        await until(lambda: kept)
        await peer.say(reset(1))
        await until(lambda: kept[0].is_reset)
        peer.reset_line()
        await until(lambda: there.server.statistics().connections == 0)
        await until(lambda: there.server.statistics().calls_running == 0)
        begun = time.monotonic()
        there.server.close()
        await there.server.wait_closed()
        assert time.monotonic() - begun < 1.0


async def test_a_stop_does_not_wait_for_a_peer_that_never_ends_our_calls() -> None:
    async with serving(lambda_app(), stop_grace=0.05, abort_grace=5.0, close_timeout=0.05) as there:
        peer = await V1Peer.meet(there.port)
        handle = there.only_socket().start("never")
        assert (await peer.hear())[0] == 2
        begun = time.monotonic()
        there.server.close()
        heard = [await peer.hear() for _ in range(4)]
        assert [each[0] for each in heard] == [11, 3, 11, "close"]
        assert heard[2][2] == 0
        await peer.close()
        await there.server.wait_closed()
        assert time.monotonic() - begun < 2.0
        with pytest.raises(RPCError) as caught:
            await handle
        assert (caught.value.code, caught.value.outcome) == (Code.UNAVAILABLE, Outcome.UNKNOWN)


def lambda_app() -> sockrpc.App:
    app = sockrpc.App()

    @app.method("down")
    async def down(call: sockrpc.Call) -> bytes:
        return (
            call.payload if call.text == "0" else bytes(await call.peer.call("down", str(int(call.text) - 1)))
        )

    @app.method("ask")
    async def ask(call: sockrpc.Call) -> bytes:
        return bytes(await call.peer.call("echo", call.payload))

    app.method("echo")(lambda call: call.payload)
    return app


async def test_calls_back_ten_deep() -> None:
    async with serving(lambda_app()) as there, there.connect(protocols=V1, app=lambda_app()) as client:
        assert await client.call("down", "10", timeout=5) == b"0"


async def test_both_sides_at_their_limits_call_each_other() -> None:
    limits = {"max_calls": 8, "max_in_flight": 8}
    async with (
        serving(lambda_app(), **limits) as there,
        there.connect(protocols=V1, app=lambda_app(), max_calls=8) as client,
    ):
        async with asyncio.timeout(5):
            answers = await asyncio.gather(
                *[client.call("ask", str(n)) for n in range(50)],
                *[there.only_socket().call("ask", str(n)) for n in range(50)],
            )
        assert answers == [str(n).encode() for n in range(50)] * 2


async def test_nested_calls_of_the_socket_form_are_bounded_like_all_others() -> None:
    async def idle(socket: sockrpc.Socket) -> None:
        await asyncio.Event().wait()

    async with serving(idle, max_calls=4, stop_grace=0.0) as there:
        peer = await V1Peer.meet(there.port)
        await peer.say(*[opened(n, "work", flags=NESTED) for n in range(1, 7)])
        for id in (5, 6):
            assert (await peer.hear())[:4] == (9, id, Code.RESOURCE_EXHAUSTED, 1)
        await peer.close()


async def test_notifications_share_the_room_of_calls() -> None:
    app = lambda_app()

    @app.method("forever")
    async def forever(call: sockrpc.Call) -> None:
        await asyncio.Event().wait()

    @app.on("news")
    async def news(notification: sockrpc.Notification) -> None:
        await asyncio.Event().wait()

    async with serving(app, max_held_bytes=200_000, abort_grace=0.05, stop_grace=0.05) as there:
        peer = await V1Peer.meet(there.port)
        await peer.say(opened(1, "forever", bytes(10), flags=4), b"\x01\x04news" + bytes(60_000))
        await peer.synchronize()
        await peer.say(b"\x01\x04news" + bytes(60_000))
        assert (await peer.hear_end())[:2] == ("close", 1013)
        await peer.close()
