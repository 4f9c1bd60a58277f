"""`Client.on`: who gets which payloads, from when, and until when."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

import sockrpc
from tests.kit.raw_server import Peer, RawServer, connected, notification
from tests.kit.support import serving, started, until


async def test_several_listeners_of_one_event_each_get_every_payload() -> None:
    async with connected() as (client, peer):
        listeners = [client.on("event") for _ in range(3)]
        other = client.on("other")
        await peer.send(notification("event", b"1"), notification("other", b"o"), notification("event", b"2"))
        for listener in listeners:
            assert [await anext(listener), await anext(listener)] == [b"1", b"2"]
        assert await anext(other) == b"o"


async def test_a_listener_hears_what_comes_from_on_on_and_nothing_from_before() -> None:
    async with connected() as (client, peer):
        await peer.send(notification("event", b"before"))
        await peer.synchronize()
        listener = client.on("event")
        # Nobody iterates yet.
        await peer.send(notification("event", b"1"), notification("event", b"2"))
        await peer.synchronize()
        late = client.on("event")
        await peer.send(notification("event", b"3"))
        assert [await anext(listener) for _ in range(3)] == [b"1", b"2", b"3"]
        assert await anext(late) == b"3"


async def test_what_comes_with_the_answer_to_the_opening_request_is_heard() -> None:
    """A server's on_connect may notify at once; nothing of it may depend on how TCP cuts its segments."""
    async with RawServer() as server:

        async def greet() -> Peer:
            peer = await server.accepted.get()
            await peer.shake_hands()
            # Not drained in between: both leave in one segment.
            await peer.send(notification("hello", b"there"))
            return peer

        greeting = asyncio.ensure_future(greet())
        async with sockrpc.connect(server.uri) as client:
            heard = await started(anext(client.on("hello")))
            peer = await greeting
            await peer.synchronize()
            await until(heard.done)
            assert heard.result() == b"there"
            await peer.finish()


async def test_cancelling_the_wait_for_a_payload_loses_none() -> None:
    async with connected() as (client, peer):
        listener = client.on("event")
        # With some number of turns the payload has come and the waiting task has not run yet.
        for turns in range(12):
            payload = b"%d" % turns
            waiting = await started(anext(listener))
            await peer.send(notification("event", payload))
            for _ in range(turns):
                await asyncio.sleep(0)
            waiting.cancel()
            await until(waiting.done)
            assert (await anext(listener) if waiting.cancelled() else waiting.result()) == payload


async def test_tasks_that_share_a_listener_share_its_payloads() -> None:
    async with connected() as (client, peer):
        listener = client.on("event")
        waiting = [await started(anext(listener)) for _ in range(4)]
        # One that gives up is no concern of the others.
        waiting.pop(1).cancel()
        await peer.synchronize()
        assert not any(task.done() for task in waiting)
        await peer.send(notification("event", b"1"))
        await until(lambda: any(task.done() for task in waiting))
        await peer.synchronize()
        assert sum(task.done() for task in waiting) == 1
        await peer.send(notification("event", b"2") + notification("event", b"3"))
        assert sorted(await asyncio.gather(*waiting)) == [b"1", b"2", b"3"]


async def test_aclose_unsubscribes_drops_what_is_held_and_ends_whoever_waits() -> None:
    async with connected() as (client, peer):
        waited_for, held, other = client.on("event"), client.on("event"), client.on("event")
        waiting = await started(anext(waited_for))
        await waited_for.aclose()
        with pytest.raises(StopAsyncIteration):
            await waiting
        await peer.send(notification("event", b"1"))
        await peer.synchronize()
        await held.aclose()
        await held.aclose()
        for listener in (waited_for, held):
            assert [payload async for payload in listener] == []
        assert client.status().events == ["event"]
        # The others notice nothing.
        assert await anext(other) == b"1"
        await other.aclose()
        assert client.status().events == []


async def test_a_listener_as_a_context_is_closed_at_its_end() -> None:
    async with connected() as (client, peer):
        async with client.on("event") as listener:
            await peer.send(notification("event", b"1"))
            async for payload in listener:
                assert payload == b"1"
                break
            assert client.status().events == ["event"]
        assert client.status().events == []


async def test_a_listener_that_nobody_refers_to_unsubscribes() -> None:
    async with connected() as (client, peer):
        waiting = await started(first_of(client))
        await peer.send(notification("event", b"1"), notification("event", b"2"))
        # It left its loop by `break`.
        assert await waiting == b"1"
        gc.collect()
        assert client.status().events == []
        await peer.send(notification("event", b"3"))
        await peer.synchronize()


async def first_of(client: sockrpc.Client) -> bytes:
    async for payload in client.on("event"):
        return payload
    raise AssertionError("it ended")


async def test_our_own_close_ends_iterators_after_what_they_hold() -> None:
    async with connected() as (client, peer):
        waiting, held = client.on("one"), client.on("two")
        collecting = await started(collect(waiting))
        await peer.send(notification("two", b"1"), notification("two", b"2"))
        await peer.synchronize()
        closing = await started(client.close())
        await peer.finish()
        await closing
        assert await collecting == []
        assert await collect(held) == [b"1", b"2"]
        assert await collect(held) == []


async def collect(listener: sockrpc.Listener) -> list[bytes]:
    return [payload async for payload in listener]


@pytest.mark.parametrize("end", ["close frame", "end of file", "broken line"])
async def test_a_loss_raises_after_what_a_listener_holds(end: str) -> None:
    async with connected() as (client, peer):
        waiting, held = client.on("one"), client.on("two")
        collecting = await started(collect(waiting))
        await peer.send(notification("two", b"1"), notification("two", b"2"))
        await peer.synchronize()
        if end == "close frame":
            await peer.close_politely(1013)
        elif end == "end of file":
            await peer.finish()
        else:
            peer.reset_line()
        with pytest.raises(sockrpc.ConnectionLost) as raised:
            await collecting
        assert raised.value.code == (1013 if end == "close frame" else 1006)
        assert [await anext(held), await anext(held)] == [b"1", b"2"]
        for _ in range(2):
            with pytest.raises(sockrpc.ConnectionLost) as raised:
                await anext(held)
            assert raised.value.code == (1013 if end == "close frame" else 1006)


async def test_no_listener_begins_after_the_end() -> None:
    async with connected() as (client, peer):
        await peer.close_politely(1001)
        await peer.finish()
        await client.wait_closed()
        with pytest.raises(sockrpc.ConnectionLost, match="1001"):
            client.on("event")
    async with connected() as (client, peer):
        closing = await started(client.close())
        with pytest.raises(sockrpc.ConnectionClosed, match="1000"):
            client.on("event")
        await peer.finish()
        await closing


@pytest.mark.parametrize("limit", ["payloads", "bytes"])
async def test_a_listener_that_falls_behind_ends_and_the_others_notice_nothing(limit: str) -> None:
    options: dict[str, Any] = (
        {"max_listener_payloads": 3} if limit == "payloads" else {"max_listener_bytes": 6}
    )
    async with connected(**options) as (client, peer):
        slow, quick = client.on("event"), client.on("event")
        for payload in (b"11", b"22", b"33"):
            await peer.send(notification("event", payload))
            assert await anext(quick) == payload
        assert client.status().events == ["event"]
        await peer.send(notification("event", b""))
        assert await anext(quick) == b""
        if limit == "bytes":
            # Nothing is not too much.
            await peer.send(notification("event", b"4"))
            assert await anext(quick) == b"4"
        await quick.aclose()
        # It unsubscribed where it fell behind, though nobody has looked at it yet.
        assert client.status().events == []
        held = [await anext(slow) for _ in range(3 if limit == "payloads" else 4)]
        assert held == [b"11", b"22", b"33", b""][: len(held)]
        with pytest.raises(sockrpc.ListenerOverflow, match="'event'"):
            await anext(slow)
        # The connection is as good as before.
        again = client.on("event")
        await peer.send(notification("event", b"5"))
        assert await anext(again) == b"5"


async def test_listening_and_calling_at_once() -> None:
    app = sockrpc.App()

    @app.method("count")
    async def count(call: sockrpc.Call) -> str:
        for i in range(100):
            await call.socket.notify("progress", str(i))
        return "counted"

    async with serving(app) as here, here.connect() as client:
        progress = client.on("progress")
        assert await client.call("count") == b"counted"
        # What was notified before the answer is there before it.
        assert [await anext(progress) for _ in range(100)] == [b"%d" % i for i in range(100)]
