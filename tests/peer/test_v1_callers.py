"""The caller's side of `sockrpc.v1` where calls wait, are given up, or meet a server that keeps no rule."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

import sockrpc
from sockrpc import Code, DeadlineExceeded, Outcome, RPCError
from tests.kit.support import serving, until
from tests.kit.v1_peer import V1, client_of, credit, error, hear, hello, item, response, say


def make_app() -> sockrpc.App:
    app = sockrpc.App()
    app.method("echo")(lambda call: call.payload)

    @app.method("forever")
    async def forever(call: sockrpc.Call) -> None:
        await asyncio.Event().wait()

    @app.method("count")
    async def count(call: sockrpc.Call) -> str:
        return str(len([item async for item in call.items()]))

    return app


async def test_a_notification_does_not_wait_for_calls_that_the_peer_has_no_room_for() -> None:
    heard: list[str] = []
    app = make_app()
    app.on("news")(lambda notification: heard.append(notification.text))
    async with serving(app, max_calls=1) as there, there.connect(protocols=V1) as client:
        waiting = [client.start("forever") for _ in range(3)]
        await client.notify("news", "now")
        await until(lambda: heard == ["now"])
        for each in reversed(waiting):
            assert await each.cancel() in (Outcome.NOT_STARTED, Outcome.PARTIAL)


async def test_what_is_given_up_before_it_was_sent_says_so_in_its_error() -> None:
    async with serving(make_app(), max_calls=1) as there, there.connect(protocols=V1) as client:
        first = client.start("forever")
        with pytest.raises(DeadlineExceeded) as late:
            await client.call("forever", timeout=0.02)
        second = client.start("forever")
        assert await second.cancel() is Outcome.NOT_STARTED
        with pytest.raises(RPCError) as cancelled:
            await second
        assert (late.value.outcome, cancelled.value.outcome) == (Outcome.NOT_STARTED, Outcome.NOT_STARTED)
        assert await first.cancel() is Outcome.PARTIAL


@pytest.mark.parametrize("items", [[], ["a"], ["a", "b"]])
@pytest.mark.parametrize("how", ["pump", "stream"])
async def test_the_end_of_items_follows_a_request_that_had_to_wait(how: str, items: list[str]) -> None:
    async def by_stream(client: sockrpc.Client) -> bytes:
        async with client.stream("count") as stream:
            for each in items:
                assert await stream.send(each)
            await stream.end()
            return await stream.result()

    async with serving(make_app(), max_calls=1) as there, there.connect(protocols=V1) as client:
        first = client.start("forever")
        counting = asyncio.ensure_future(
            by_stream(client) if how == "stream" else client.call("count", items=items)
        )
        for _ in range(5):
            await asyncio.sleep(0)
        await first.cancel()
        assert await counting == str(len(items)).encode()


async def test_whoever_stops_to_wait_for_an_outcome_does_so_for_himself() -> None:
    async with client_of() as (client, peer):
        handle = client.start("anything")
        handle.cancel().cancel()
        outcome = handle.cancel()
        assert [(await hear(peer))[0] for _ in range(2)] == [2, 3]
        await say(peer, error(1, Code.CANCELLED, 2))
        assert await outcome is Outcome.COMPLETED
        assert await handle.cancel() is Outcome.COMPLETED


@pytest.mark.parametrize("kind", [asyncio.CancelledError, ValueError])
async def test_a_source_of_items_that_fails_ends_its_call(kind: type[BaseException]) -> None:
    async def source() -> AsyncIterator[str]:
        yield "a"
        raise kind

    async with serving(make_app()) as there, there.connect(protocols=V1) as client:
        with pytest.raises(RPCError if kind is asyncio.CancelledError else kind):
            await client.call("count", items=source())
        await until(lambda: there.server.statistics().calls_running == 0)


async def test_a_close_with_a_code_that_may_not_be_sent_changes_nothing() -> None:
    async with serving(make_app()) as there, there.connect(protocols=V1) as client:
        with pytest.raises(sockrpc.UsageError):
            await client.close(5)
        assert await client.call("echo", "x") == b"x"


async def test_a_window_of_any_size_works() -> None:
    async with client_of(window_bytes=2**40) as (client, peer), client.stream("feed") as stream:
        assert (await hear(peer))[:2] == (5, 1)
        await say(peer, item(1, b"x"))
        assert await anext(stream) == b"x"
    async with client_of() as (client, peer), client.stream("feed", window_bytes=2**50) as stream:
        assert (await hear(peer))[:2] == (5, 1)
        assert await hear(peer) == (8, 1, 2**31 - 1 - 256 * 1024)
    for size in (0, -1, 1.5, "x"):
        with pytest.raises(sockrpc.UsageError):
            client.stream("feed", window_bytes=size)  # type: ignore[arg-type]


async def test_the_threads_of_a_client_end_with_its_connection() -> None:
    mine = sockrpc.App()
    mine.method("work", thread=True)(lambda call: threading.current_thread().name)
    app = make_app()

    @app.method("ask")
    async def ask(call: sockrpc.Call) -> bytes:
        return bytes(await call.peer.call("work"))

    before = threading.active_count()
    async with serving(app, blocked_warning=None) as there:
        async with there.connect(protocols=V1, app=mine) as client:
            assert (await client.call("ask")).startswith(b"sockrpc-")
        await until(lambda: threading.active_count() == before)


async def test_a_handle_and_a_stream_belong_to_their_loop() -> None:
    async with client_of() as (client, peer):
        handle = client.start("anything")
        stream = client.stream("anything")
        await stream.__aenter__()
        raised: list[BaseException] = []

        async def elsewhere() -> None:
            for act in (handle.cancel, stream.cancel):
                with pytest.raises(sockrpc.UsageError):
                    act()
            for use in (stream.send("x"), stream.end(), stream.aclose()):
                with pytest.raises(sockrpc.UsageError):
                    await use

        def run() -> None:
            try:
                asyncio.run(elsewhere())
            except BaseException as failure:
                raised.append(failure)

        thread = threading.Thread(target=run)
        thread.start()
        await asyncio.get_running_loop().run_in_executor(None, thread.join)
        assert not raised
        assert [(await hear(peer))[0] for _ in range(2)] == [2, 5]
        handle.cancel()
        assert (await hear(peer))[:2] == (3, 1)
        await stream.aclose()


# What a server that keeps no rule may do to one call: its messages, the code that the caller sees.
BREACHES: dict[str, tuple[list[bytes], Code]] = {
    "items without credit": (
        [item(1, bytes(200_000)), item(1, bytes(200_000)), item(1)],
        Code.RESOURCE_EXHAUSTED,
    ),
    "an item larger than the window": ([item(1, bytes(256 * 1024 + 1))], Code.RESOURCE_EXHAUSTED),
    "credit overflow": ([credit(1, 2**31 - 1)], Code.INVALID_ARGUMENT),
}


@pytest.mark.parametrize(("breach", "code"), BREACHES.values(), ids=BREACHES)
async def test_a_server_that_breaks_the_rules_of_a_stream_loses_that_call_only(
    breach: list[bytes], code: Code
) -> None:
    async with client_of() as (client, peer), client.stream("feed") as stream:
        assert (await hear(peer))[:2] == (5, 1)
        await say(peer, *breach)
        assert (await hear(peer))[:2] == (3, 1)
        with pytest.raises(RPCError) as caught:
            await stream.result()
        assert caught.value.code is code
        other = client.start("other")
        assert (await hear(peer))[:2] == (2, 2)
        # What still comes for the call that was given up is dropped until its end.
        await say(peer, item(1, b"more"), credit(1, 5), error(1, 1), response(2, b"fine"))
        assert await other == b"fine"


async def test_an_item_that_was_not_asked_for_gives_up_its_call() -> None:
    async with client_of() as (client, peer):
        handle = client.start("plain")
        assert (await hear(peer))[:2] == (2, 1)
        await say(peer, item(1, b"x"))
        assert (await hear(peer))[:2] == (3, 1)
        with pytest.raises(RPCError) as caught:
            await handle
        assert caught.value.code is Code.INTERNAL


async def test_strange_numbers_in_an_error_are_read_as_documented() -> None:
    async with client_of() as (client, peer):
        for id, (code, outcome) in enumerate([(0, 0), (17, 3), (127, 255), (128, 1), (255, 2)], 1):
            handle = client.start("plain")
            assert (await hear(peer))[:2] == (2, id)
            await say(peer, error(id, code, outcome))
            with pytest.raises(RPCError) as caught:
                await handle
            assert caught.value.code == (code if code >= 128 else Code.UNKNOWN)
            assert (
                caught.value.outcome
                is (Outcome.PARTIAL, Outcome.NOT_STARTED, Outcome.COMPLETED)[outcome if outcome <= 2 else 0]
            )


async def test_a_server_with_no_room_for_calls_is_asked_for_nothing() -> None:
    async with client_of(hello(calls=0, size=20), max_outgoing_calls=2) as (client, peer):
        waiting = [client.start("a"), client.start("b")]
        with pytest.raises(RPCError, match="wait to be sent already"):
            client.start("c")
        with pytest.raises(RPCError, match="takes 20 in a message"):
            client.start("d", b"very much too long")
        await client.notify("n")
        assert await hear(peer) == (1, b"\x01n")
        for each in waiting:
            assert await each.cancel() is Outcome.NOT_STARTED
