"""The App form: methods, events, hooks, and what handlers may return."""

from __future__ import annotations

import asyncio
import math
from functools import partial
from typing import Any

import pytest

import sockrpc
import sockrpc.testing
from tests.kit.support import V0, request, serving, started, until


async def test_the_first_program() -> None:
    app = sockrpc.App()

    @app.method("uppercase")
    async def uppercase(call: sockrpc.Call) -> str:
        return call.text.upper()

    @app.on("ping")
    async def ping(notification: sockrpc.Notification) -> None:
        await notification.socket.notify("pong", notification.payload)

    async with serving(app) as here, here.connect() as client:
        assert await client.call("uppercase", "hello") == b"HELLO"
        pongs = client.on("pong")
        await client.notify("ping", b"hi")
        assert await anext(pongs) == b"hi"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("é", "é".encode()),
        (b"bytes", b"bytes"),
        (bytearray(b"array"), b"array"),
        (memoryview(b"view"), b"view"),
        (memoryview(b"every other")[::2], b"eeyohr"),
        (None, b""),
        ("", b""),
    ],
    ids=repr,
)
@pytest.mark.parametrize("coroutine", [False, True], ids=["plain", "coroutine"])
async def test_what_a_handler_may_return(value: object, expected: bytes, coroutine: bool) -> None:
    app = sockrpc.App()

    def plain(call: sockrpc.Call) -> Any:
        return value

    async def waiting(call: sockrpc.Call) -> Any:
        await asyncio.sleep(0)
        return value

    app.method("give")(waiting if coroutine else plain)
    async with serving(app) as here, here.connect() as client:
        assert await client.call("give") == expected


@pytest.mark.parametrize("value", [1, object(), ["a"], {"a": 1}, "\ud800"], ids=repr)
async def test_a_value_of_another_type_fails_the_call_and_names_the_method(
    value: object, caplog: pytest.LogCaptureFixture
) -> None:
    app = sockrpc.App()

    @app.method("odd")
    def odd(call: sockrpc.Call) -> Any:
        return value

    @app.method("even")
    def even(call: sockrpc.Call) -> str:
        return "fine"

    async with serving(app) as here, here.connect(protocols=V0) as client:
        waiting = await started(client.call("odd"))
        assert await client.call("even") == b"fine"
        assert not waiting.done()
        assert here.server.statistics().calls_failed == 1
        waiting.cancel()
    assert "'odd'" in caplog.text


async def test_a_failed_call_gets_no_answer_and_its_id_is_free(caplog: pytest.LogCaptureFixture) -> None:
    app = sockrpc.App()

    @app.method("fail")
    async def fail(call: sockrpc.Call) -> str:
        raise ValueError("secret")

    app.method("fine")(lambda call: b"fine")
    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(7, "fail"))
        await until(lambda: here.server.statistics().calls_failed == 1)
        await raw.send(request(7, "fine"))
        assert await raw.answer() == (7, b"fine")
    assert "'fail'" in caplog.text
    assert "secret" in caplog.text


async def test_an_unknown_method_fails_the_call_and_an_unknown_event_is_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = sockrpc.App()
    app.method("known")(lambda call: b"fine")
    async with serving(app) as here, here.connect(protocols=V0) as client:
        unknown = await started(client.call("unknown"))
        await client.notify("nobody listens")
        assert await client.call("known") == b"fine"
        assert not unknown.done()
        statistics = here.server.statistics()
        assert (statistics.calls_failed, statistics.notifications_dropped) == (1, 1)
        unknown.cancel()
    assert "'unknown'" in caplog.text


async def test_a_decorated_coroutine_function_is_one() -> None:
    app = sockrpc.App()

    async def wait(call: sockrpc.Call, word: str = "plain") -> str:
        await asyncio.sleep(0)
        return word

    class Waiting:
        async def __call__(self, call: sockrpc.Call) -> str:
            await asyncio.sleep(0)
            return "object"

    app.method("partial")(partial(wait, word="partial"))
    app.method("wrapped")(lambda call: wait(call, "wrapped"))
    app.method("object")(Waiting())
    async with serving(app) as here, here.connect() as client:
        for word in ("partial", "wrapped", "object"):
            assert await client.call(word) == word.encode()


async def test_the_name_defaults_to_the_function_s() -> None:
    app = sockrpc.App()
    heard: list[str] = []

    @app.method()
    async def first(call: sockrpc.Call) -> bytes:
        return b"1"

    @app.method
    async def second(call: sockrpc.Call) -> bytes:
        return b"2"

    @app.on()
    async def third(notification: sockrpc.Notification) -> None:
        heard.append(notification.event)

    @app.on
    async def fourth(notification: sockrpc.Notification) -> None:
        heard.append(notification.event)

    async with sockrpc.testing.connect(app) as client:
        assert [await client.call(name, timeout=10) for name in ("first", "second")] == [b"1", b"2"]
        for name in ("third", "fourth"):
            await client.notify(name)
        await client.settle()
    assert heard == ["third", "fourth"]


def test_registration_mistakes_are_usage_errors() -> None:
    app = sockrpc.App()
    app.method("taken")(lambda call: b"")

    async def coroutine(call: sockrpc.Call) -> None: ...

    with pytest.raises(sockrpc.UsageError, match="twice"):
        app.method("taken")(lambda call: b"")
    with pytest.raises(sockrpc.UsageError, match="255"):
        app.method("x" * 256)(lambda call: b"")
    with pytest.raises(sockrpc.UsageError, match="inline"):
        app.method("a", timeout=1)(lambda call: b"")
    with pytest.raises(sockrpc.UsageError, match="thread"):
        app.method("b", thread=True)(coroutine)
    with pytest.raises(sockrpc.UsageError, match="positive"):
        app.method("c", timeout=0)(coroutine)
    with pytest.raises(sockrpc.UsageError, match="positive"):
        app.method("d", timeout=math.nan)(coroutine)
    with pytest.raises(sockrpc.UsageError, match="no name"):
        app.method()(partial(coroutine))
    wrongs: list[Any] = [lambda: b"", lambda call, more: b"", lambda *, call: b""]
    for wrong in wrongs:
        with pytest.raises(sockrpc.UsageError, match="method 'e' has to take one argument"):
            app.method("e")(wrong)
        with pytest.raises(sockrpc.UsageError, match="event 'e' has to take one argument"):
            app.on("e")(wrong)
    # What more a handler can take has a default; what does not tell is believed.
    rights: list[Any] = [lambda call, more=1: b"", lambda *calls: b"", partial(lambda n, call: b"", 1), dict]
    for right in rights:
        sockrpc.App().method("e")(right)
    app.method("x" * 255)(lambda call: b"")


async def test_on_connect_finishes_before_any_handler_starts() -> None:
    app = sockrpc.App()
    may_connect = asyncio.Event()
    log: list[str] = []

    @app.on_connect
    async def connected(socket: sockrpc.Socket) -> None:
        await may_connect.wait()
        socket.state.user = "ada"
        log.append("connected")

    @app.method("who")
    def who(call: sockrpc.Call) -> Any:
        log.append("call")
        return call.socket.state.user

    @app.on("event")
    def event(notification: sockrpc.Notification) -> None:
        log.append("event")

    async with serving(app) as here, here.connect(protocols=V0) as client:
        waiting = await started(client.call("who"))
        await client.notify("event")
        await until(lambda: here.server.statistics().procedures_waiting == 2)
        assert log == []
        may_connect.set()
        assert await waiting == b"ada"
        assert log == ["connected", "call", "event"]


async def test_on_connect_that_raises_closes_with_1011_and_skips_on_disconnect(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = sockrpc.App()
    log: list[str] = []

    @app.on_connect
    async def connected(socket: sockrpc.Socket) -> None:
        raise RuntimeError("no room")

    app.on_disconnect(lambda socket: log.append("disconnected"))
    async with serving(app) as here, await here.raw() as raw:
        assert await raw.closing() == (1011, "on_connect failed")
    assert log == []
    assert "no room" in caplog.text


async def test_on_disconnect_starts_once_and_does_not_wait_for_work_that_unwinds() -> None:
    app = sockrpc.App()
    log: list[str] = []
    may_unwind = asyncio.Event()
    running = asyncio.Event()

    @app.method("work")
    async def work(call: sockrpc.Call) -> None:
        running.set()
        try:
            await asyncio.sleep(60)
        finally:
            log.append("cancelled")
            await may_unwind.wait()
            log.append("unwound")

    @app.on_disconnect
    async def disconnected(socket: sockrpc.Socket) -> None:
        log.append("disconnected")
        assert socket.remote_address[0] == "127.0.0.1"

    async with serving(app) as here:
        async with await here.raw() as raw:
            await raw.send(request(1, "work"))
            await running.wait()
        await until(lambda: len(log) == 2)
        assert sorted(log) == ["cancelled", "disconnected"]
        may_unwind.set()
    assert log[2:] == ["unwound"]


async def test_rooms_broadcast_to_every_member_and_lose_lost_ones() -> None:
    app = sockrpc.App()
    room = sockrpc.Room()
    app.on_connect(room.join)

    @app.on("broadcast")
    def broadcast(notification: sockrpc.Notification) -> None:
        room.broadcast("message", notification.payload)

    @app.on("others")
    def others(notification: sockrpc.Notification) -> None:
        room.broadcast("message", notification.payload, exclude=notification.socket)

    async with serving(app) as here, here.connect() as one:
        messages = one.on("message")
        async with here.connect() as two:
            await until(lambda: len(room) == 2)
            heard = two.on("message")
            await two.notify("broadcast", "hello")
            assert await anext(messages) == b"hello"
            assert await anext(heard) == b"hello"
            await two.notify("others", "not to me")
            await two.notify("broadcast", "to all")
            assert [await anext(messages), await anext(messages)] == [b"not to me", b"to all"]
            assert await anext(heard) == b"to all"
        await until(lambda: len(room) == 1)
        assert here.only_socket() in room
