"""How calls end in `sockrpc.v1` where two things meet: committed work, undo hooks, limits, a stop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

import sockrpc
from sockrpc import Code, Outcome, RPCError
from tests.kit.pair import MemoryServer
from tests.kit.support import CLOSE, V1, serving, started, until
from tests.kit.v1_peer import SENDS, TAKES, V1Peer, item, opened
from tests.kit.work import Work


async def test_items_that_end_before_their_request_is_written_end_behind_it() -> None:
    """The request waits for the peer's limit of calls meanwhile."""
    work = Work()
    app = work.app()

    @app.method("count")
    async def count(call: sockrpc.Call) -> str:
        return str(len([each async for each in call.items()]))

    async with MemoryServer(app, max_calls=1) as here:
        client, _ = here.connect(protocol=V1[0])
        await here.settle()
        first = await started(client.call("work"))
        counting = await started(client.call("count", items=[]))
        async with client.stream("count") as stream:
            await stream.end()
            result = await started(stream.result())
            await here.settle()
            assert not counting.done()
            work.may_answer.set()
            await here.settle()
            assert (first.result(), counting.result(), result.result()) == (b"answer", b"0", b"0")


async def test_notifications_do_not_wait_for_calls_that_wait_for_the_peers_limit() -> None:
    work = Work()
    app = work.app()
    heard: list[bytes] = []
    app.on("note")(lambda notification: heard.append(notification.payload))
    async with MemoryServer(app, max_calls=1) as here:
        client, _ = here.connect(protocol=V1[0])
        await here.settle()
        calls = [await started(client.call("work")) for _ in range(2)]
        await here.settle()
        notifying = await started(client.notify("note", "x"))
        await here.settle()
        assert notifying.done()
        assert heard == [b"x"]
        work.may_answer.set()
        await here.settle()
        assert [call.result() for call in calls] == [b"answer"] * 2


@pytest.mark.parametrize("protected", ["run to completion", "committed"])
async def test_work_that_no_abort_reaches_may_commit_after_its_reset(protected: str) -> None:
    app = sockrpc.App()
    may_go_on = asyncio.Event()
    running = asyncio.Event()

    @app.method("pay", run_to_completion=protected == "run to completion")
    async def pay(call: sockrpc.Call) -> None:
        if protected == "committed":
            call.commit()
        running.set()
        await may_go_on.wait()
        assert call.is_reset
        call.commit()

    async with serving(app) as here, here.connect(protocols=V1) as client:
        payment = client.start("pay")
        await running.wait()
        outcome = payment.cancel()
        await until(lambda: here.server.statistics().calls_reset == 1)
        assert not outcome.done()
        may_go_on.set()
        assert await outcome is Outcome.COMPLETED


async def test_a_generator_in_a_thread_that_runs_to_completion_goes_on_after_its_reset() -> None:
    app = sockrpc.App()
    done: list[str] = []

    @app.method("feed", thread=True, run_to_completion=True)
    def feed(call: sockrpc.Call) -> Iterator[bytes]:
        for _ in range(5):
            yield bytes(65_536)
        done.append("all")

    async with serving(app) as here, here.connect(protocols=V1, window_bytes=65_536) as client:
        stream = client.stream("feed")
        await anext(stream)
        assert await stream.cancel() is Outcome.COMPLETED
    assert done == ["all"]


async def test_work_that_is_aborted_may_not_commit() -> None:
    app = sockrpc.App()
    raised: list[BaseException] = []

    @app.method("pay")
    async def pay(call: sockrpc.Call) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            try:
                call.commit()
            except asyncio.CancelledError as error:
                raised.append(error)
            raise

    async with serving(app) as here, here.connect(protocols=V1) as client:
        payment = client.start("pay")
        await until(lambda: here.server.statistics().calls_running == 1)
        assert await payment.cancel() is Outcome.PARTIAL
    assert len(raised) == 1


async def test_the_time_of_a_method_does_not_reach_committed_work() -> None:
    """Its caller hears that the time is over, and that the effect has taken place."""
    app = sockrpc.App()
    may_go_on = asyncio.Event()
    calls: list[sockrpc.Call] = []

    @app.method("pay", timeout=0.02)
    async def pay(call: sockrpc.Call) -> None:
        calls.append(call)
        call.commit()
        await may_go_on.wait()

    async with serving(app) as here, here.connect(protocols=V1) as client:
        paying = await started(client.call("pay"))
        await until(lambda: calls and calls[0].abort_reason == "timeout")
        may_go_on.set()
        with pytest.raises(sockrpc.DeadlineExceeded) as raised:
            await paying
    assert raised.value.outcome is Outcome.COMPLETED


@pytest.mark.parametrize("fault", ["an item without credit", "no credit"])
async def test_undo_hooks_of_a_call_that_is_broken_off_have_run_before_its_end(fault: str) -> None:
    app = sockrpc.App()
    undone: list[str] = []
    begun = asyncio.Event()

    @app.method("feed", credit_timeout=0.02 if fault == "no credit" else None)
    async def feed(call: sockrpc.Call) -> None:
        call.on_abort(undone.append, "undone")
        begun.set()
        while fault == "no credit":
            await call.send(bytes(65_536))
        await asyncio.get_running_loop().create_future()

    async with serving(app) as here, await V1Peer.meet(here.port) as raw:
        await raw.say(opened(1, "feed", flags=SENDS | TAKES))
        await begun.wait()
        if fault == "no credit":
            assert len(await raw.message()) == 5 + 65_536
        else:
            await raw.say(item(1, bytes(65_536)), item(1, b"one too many"))
        assert await raw.error() == (1, Code.RESOURCE_EXHAUSTED, Outcome.PARTIAL.value)
        assert undone == ["undone"]


async def test_nothing_is_sent_for_a_call_that_has_failed_but_its_end() -> None:
    app = sockrpc.App()
    sent: list[bool] = []

    @app.method("feed")
    async def feed(call: sockrpc.Call) -> None:
        sent.append(await call.send(b"one"))
        assert await call.fail(Code.NOT_FOUND, "nothing more")
        sent.append(await call.send(b"two"))

    async with serving(app) as here, here.connect(protocols=V1) as client:
        stream = client.stream("feed")
        assert await anext(stream) == b"one"
        with pytest.raises(RPCError, match="nothing more") as raised:
            await anext(stream)
        assert raised.value.outcome is Outcome.PARTIAL
    assert sent == [True, False]


@pytest.mark.parametrize("form", ["app", "socket"])
async def test_an_answer_that_is_larger_than_its_caller_takes(form: str, caplog: Any) -> None:
    """The work is done; only its result cannot be told. The connection lives."""
    answered: list[bool] = []

    async def answer(call: sockrpc.Call) -> None:
        answered.append(await call.respond(bytes(5_000 if call.payload else 1)))

    async def handle_socket(socket: sockrpc.Socket) -> None:
        async for call in socket:
            assert isinstance(call, sockrpc.Call)
            await answer(call)
            del call

    app = sockrpc.App()
    app.method("large")(answer)
    async with (
        serving(app if form == "app" else handle_socket) as here,
        here.connect(protocols=V1, max_message_bytes=4_096) as client,
    ):
        with pytest.raises(RPCError, match="5005 bytes; at most 4096") as raised:
            await client.call("large", "x")
        assert raised.value.code is Code.RESOURCE_EXHAUSTED
        assert raised.value.outcome is Outcome.COMPLETED
        assert await client.call("large") == b"\0"
    assert answered == [False, True]


async def test_a_stop_waits_for_calls_of_the_socket_form_to_end() -> None:
    """The end of its grace cancels the socket's coroutine, which is no failure of that."""
    work = Work()
    work.may_unwind.clear()

    async def handle_socket(socket: sockrpc.Socket) -> None:
        async for call in socket:
            assert isinstance(call, sockrpc.Call)
            call.spawn_and_abort_on_reset(work(call))
            del call

    async with (
        serving(handle_socket, stop_grace=0.02, abort_grace=60) as here,
        await V1Peer.meet(here.port) as raw,
    ):
        await raw.say(opened(1, "work"))
        await until(lambda: work.calls)
        here.server.close()
        # Goaway, with the grace.
        assert (await raw.message())[0] == 11
        await until(lambda: work.cancels)
        work.calls.clear()
        work.may_unwind.set()
        assert await raw.error() == (1, Code.UNAVAILABLE, Outcome.PARTIAL.value)
        # The last Goaway comes when nothing is open.
        assert (await raw.message())[:6] == b"\x0b\x0e\0\0\0\0"
        opcode, payload = await raw.receive()
        assert (opcode, payload[:2]) == (CLOSE, b"\x03\xe9")


async def test_the_last_goaway_waits_for_work_that_unwinds() -> None:
    work = Work()
    work.may_unwind.clear()
    app = work.app()
    async with MemoryServer(app) as here:
        client, _ = here.connect(protocol=V1[0])
        handles = [client.start("work") for _ in range(2)]
        await here.settle()
        here.server.close()
        outcomes = [handle.cancel() for handle in handles]
        await here.settle()
        assert work.cancels == [1, 1]
        assert not any(outcome.done() for outcome in outcomes)
        assert not here.has_stopped()
        work.may_unwind.set()
        await here.settle()
        assert [outcome.result() for outcome in outcomes] == [Outcome.PARTIAL] * 2
        assert here.has_stopped()
