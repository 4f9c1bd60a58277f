"""The Python client: calls and notifications, what they carry, and in which order they go and come."""

from __future__ import annotations

import asyncio
import enum
import struct
from typing import Any

import pytest

import sockrpc
from tests.kit.raw_server import connected
from tests.kit.support import BINARY, PATIENCE, serving, started, until

MANY = 1_000


def echo_app() -> sockrpc.App:
    app = sockrpc.App()
    app.method("echo")(lambda call: call.payload)
    return app


async def test_a_thousand_calls_at_once_on_one_connection() -> None:
    app = sockrpc.App()
    calls: list[sockrpc.Call] = []
    all_are_there = asyncio.Event()

    @app.method("together")
    async def together(call: sockrpc.Call) -> bytes:
        calls.append(call)
        if len(calls) == MANY:
            all_are_there.set()
        await all_are_there.wait()
        return call.payload

    async with serving(app) as here, here.connect() as client:
        answers = await asyncio.gather(*(client.call("together", str(i)) for i in range(MANY)))
        assert answers == [str(i).encode() for i in range(MANY)]
        assert len({call.id for call in calls}) == MANY
        assert client.status().pending == []
        statistics = here.server.statistics()
        assert (statistics.calls_answered, statistics.calls_in_flight) == (MANY, 0)


async def test_answers_come_in_the_order_in_which_the_work_finishes() -> None:
    app = sockrpc.App()
    may_finish = {name: asyncio.Event() for name in "abcd"}

    @app.method("wait")
    async def wait(call: sockrpc.Call) -> bytes:
        await may_finish[call.text].wait()
        return call.payload

    async with serving(app) as here, here.connect() as client:
        finished: list[bytes] = []

        async def call(name: str) -> None:
            finished.append(await client.call("wait", name))

        tasks = [asyncio.ensure_future(call(name)) for name in may_finish]
        await until(lambda: here.server.statistics().calls_running == len(may_finish))
        for n, name in enumerate("cadb", 1):
            may_finish[name].set()
            await until(lambda n=n: len(finished) == n)
        assert finished == [b"c", b"a", b"d", b"b"]
        await asyncio.gather(*tasks)


async def test_a_call_that_waits_holds_up_no_other() -> None:
    app = echo_app()

    @app.method("wait")
    async def wait(call: sockrpc.Call) -> None:
        await asyncio.Event().wait()

    async with serving(app) as here, here.connect() as client:
        waiting = await started(client.call("wait"))
        for i in range(100):
            assert await client.call("echo", str(i)) == str(i).encode()
        assert not waiting.done()
        waiting.cancel()


async def test_two_clients_have_nothing_to_do_with_each_other() -> None:
    async with serving(echo_app()) as here, here.connect() as one, here.connect() as two:
        assert await one.call("echo", "one") == b"one"
        await one.close()
        assert await two.call("echo", "two") == b"two"


async def test_requests_and_notifications_go_out_in_the_order_in_which_they_were_made() -> None:
    async with connected() as (client, peer):
        made: list[tuple[int, bytes]] = []
        tasks: list[asyncio.Future[Any]] = []
        id = 0
        for i in range(100):
            name = b"n%d" % i
            if i % 3:
                tasks.append(asyncio.ensure_future(client.notify(name.decode(), "x")))
                made.append((BINARY, b"\x01" + bytes([len(name)]) + name + b"x"))
            else:
                # Ids count up from 1.
                id += 1
                tasks.append(asyncio.ensure_future(client.call(name.decode(), "y")))
                made.append((BINARY, b"\x02" + struct.pack("!I", id) + bytes([len(name)]) + name + b"y"))
            if i % 10 == 0:
                # Some go out alone, others are gathered.
                await asyncio.sleep(0)
        assert [await peer.receive() for _ in made] == made
        for answered in range(id, 0, -1):
            await peer.answer(answered, b"%d" % answered)
        results = await asyncio.gather(*tasks)
        assert [each for each in results if each is not None] == [b"%d" % i for i in range(1, id + 1)]


async def test_a_notification_does_not_overtake_requests_that_wait_for_a_slow_server() -> None:
    payload = bytes(1024 * 1024)
    async with connected(output_high_bytes=256 * 1024, output_low_bytes=64 * 1024) as (client, peer):
        # The first goes out alone and at once; the others are gathered, and stop at the high-water mark.
        calls = [asyncio.ensure_future(client.call(name, payload)) for name in ("", "a", "b", "c", "d", "e")]
        notifying = asyncio.ensure_future(client.notify("after"))
        for id in range(1, len(calls) + 1):
            assert await peer.request() == id
        assert await peer.receive() == (BINARY, b"\x01\x05after")
        await notifying
        for id in range(1, len(calls) + 1):
            await peer.answer(id)
        assert await asyncio.gather(*calls) == [b"answer"] * len(calls)


async def test_ids_count_on_whatever_became_of_the_calls_before() -> None:
    async with connected() as (client, peer):
        with pytest.raises(sockrpc.UsageError):
            await client.call("x" * 256)
        with pytest.raises(TypeError):
            await client.call("number", 1)  # type: ignore[arg-type]
        first = await started(client.call("first"))
        assert await peer.request() == 1
        first.cancel()
        assert await peer.reset() == 1
        second = await started(client.call("second"))
        assert await peer.request() == 2
        await peer.answer(2)
        assert await second == b"answer"
        third = await started(client.call("third"))
        assert await peer.request() == 3
        await peer.answer(3)
        await third


PAYLOADS: list[tuple[Any, bytes]] = [
    ("", b""),
    ("grüße 👋", "grüße 👋".encode()),
    (b"\x00\xff", b"\x00\xff"),
    (bytearray(b"array"), b"array"),
    (memoryview(b"view"), b"view"),
    (memoryview(b"every other")[::2], b"eeyohr"),
    (memoryview(struct.pack("=2I", 1, 2)).cast("I"), struct.pack("=2I", 1, 2)),
    (b"x" * 1_000_000, b"x" * 1_000_000),
]


@pytest.mark.parametrize(("payload", "expected"), PAYLOADS, ids=lambda value: repr(value)[:20])
async def test_what_a_payload_may_be(payload: Any, expected: bytes) -> None:
    app = echo_app()

    @app.on("ping")
    async def ping(notification: sockrpc.Notification) -> None:
        await notification.socket.notify("pong", notification.payload)

    async with serving(app) as here, here.connect() as client:
        pongs = client.on("pong")
        answer = await client.call("echo", payload)
        assert type(answer) is bytes
        assert answer == expected
        await client.notify("ping", payload)
        assert await anext(pongs) == expected


async def test_the_payload_is_empty_by_default() -> None:
    async with connected() as (client, peer):
        await client.notify("n")
        assert await peer.receive() == (BINARY, b"\x01\x01n")
        calling = await started(client.call("m"))
        assert await peer.receive() == (BINARY, b"\x02\x00\x00\x00\x01\x01m")
        await peer.answer(1, b"")
        assert await calling == b""


@pytest.mark.parametrize("name", ["", "é" * 127 + "x", "x" * 255], ids=["empty", "255 in UTF-8", "255"])
async def test_names_up_to_255_bytes(name: str) -> None:
    app = sockrpc.App()
    app.method(name)(lambda call: call.method)
    async with serving(app) as here, here.connect() as client:
        assert await client.call(name) == name.encode()


class Names(enum.StrEnum):
    METHOD = "method"
    EVENT = "event"


async def test_a_name_may_be_of_a_class_derived_from_str() -> None:
    app = sockrpc.App()
    app.method(Names.METHOD)(lambda call: call.method)

    @app.on(Names.EVENT)
    async def event(notification: sockrpc.Notification) -> None:
        await notification.socket.notify(Names.EVENT, notification.payload)

    async with serving(app) as here, here.connect() as client:
        events = client.on(Names.EVENT)
        assert await client.call(Names.METHOD) == b"method"
        await client.notify(Names.EVENT, "x")
        assert await anext(events) == b"x"


@pytest.mark.parametrize("name", ["x" * 256, "é" * 128, 1, b"bytes", None], ids=lambda value: repr(value)[:8])
async def test_a_name_that_can_not_be_sent_is_a_usage_error_and_nothing_is_sent(name: Any) -> None:
    async with connected() as (client, peer):
        with pytest.raises(sockrpc.UsageError):
            await client.call(name)
        with pytest.raises(sockrpc.UsageError):
            await client.notify(name)
        with pytest.raises(sockrpc.UsageError):
            client.on(name)
        assert client.status() == ([], [])
        await peer.synchronize()


@pytest.mark.parametrize(
    ("payload", "error"),
    [(1, TypeError), (None, TypeError), ([1], TypeError), ("\ud800", ValueError)],
    ids=repr,
)
async def test_a_payload_that_can_not_be_sent_is_an_error_and_nothing_is_sent(
    payload: Any, error: type[Exception]
) -> None:
    async with connected() as (client, peer):
        with pytest.raises(error):
            await client.call("method", payload)
        with pytest.raises(error):
            await client.notify("event", payload)
        assert client.status().pending == []
        await peer.synchronize()


async def test_status_tells_the_calls_in_flight_and_the_events_listened_for() -> None:
    async with connected() as (client, peer):
        assert client.status() == sockrpc.Status(pending=[], events=[])
        calls = [await started(client.call("method")) for _ in range(3)]
        listeners = [client.on("b"), client.on("a"), client.on("b")]
        assert client.status() == sockrpc.Status(pending=[1, 2, 3], events=["a", "b"])
        await peer.answer(2)
        await calls[1]
        await listeners[0].aclose()
        assert client.status() == sockrpc.Status(pending=[1, 3], events=["a", "b"])
        calls[0].cancel()
        await until(calls[0].done)
        await listeners[2].aclose()
        assert client.status() == sockrpc.Status(pending=[3], events=["a"])
        await peer.answer(3)
        await calls[2]
        await listeners[1].aclose()
        assert client.status() == sockrpc.Status(pending=[], events=[])


async def test_notify_waits_while_the_server_reads_too_slowly() -> None:
    payload = bytes(64 * 1024)
    async with connected(output_high_bytes=256 * 1024, output_low_bytes=64 * 1024) as (client, peer):
        sent = 0
        while (sending := await started(client.notify("n", payload))).done():
            sent += 1
            assert sent < 10_000
        more = await started(client.notify("after"))
        withdrawn = await started(client.notify("withdrawn"))
        await peer.wait(asyncio.sleep(0))
        assert not sending.done()
        withdrawn.cancel()
        for _ in range(sent + 1):
            assert await peer.receive() == (BINARY, b"\x01\x01n" + payload)
        # Those that waited go out in their order, and what was cancelled while it waited is not sent.
        assert await peer.receive() == (BINARY, b"\x01\x05after")
        await peer.synchronize()
        await asyncio.gather(sending, more)
        assert withdrawn.cancelled()


@pytest.mark.parametrize("end", ["lost", "closed"])
async def test_notify_that_waits_ends_with_the_connection(end: str) -> None:
    options: dict[str, Any] = {"output_high_bytes": 256 * 1024, "output_low_bytes": 0, "close_timeout": 0.1}
    async with connected(**options) as (client, peer):
        while (sending := await started(client.notify("n", bytes(64 * 1024)))).done():
            pass
        if end == "lost":
            peer.reset_line()
            with pytest.raises(sockrpc.ConnectionLost):
                await sending
        else:
            await client.close(3000, "enough")
            with pytest.raises(sockrpc.ConnectionClosed) as raised:
                await sending
            assert (raised.value.code, raised.value.reason) == (3000, "enough")


async def test_a_call_and_its_answer_cross_notifications_of_both_sides() -> None:
    """Everything at once on one line, each in its own order."""
    app = echo_app()
    heard: list[bytes] = []

    @app.on("to the server")
    def collect(notification: sockrpc.Notification) -> None:
        heard.append(notification.payload)
        assert notification.socket.notify_nowait("to the client", notification.payload)

    numbers = [b"%d" % i for i in range(300)]
    async with serving(app) as here, here.connect() as client:
        back = client.on("to the client")

        async def notify_all() -> None:
            for number in numbers:
                await client.notify("to the server", number)

        async with asyncio.timeout(PATIENCE):
            notifying = asyncio.ensure_future(notify_all())
            assert await asyncio.gather(*(client.call("echo", number) for number in numbers)) == numbers
            await notifying
            assert [await anext(back) for _ in numbers] == numbers
        assert heard == numbers
