"""What a transport, a loop or a handler may do, and hardly ever does."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

import sockrpc
from sockrpc._settings import Settings
from sockrpc.limits import Limits
from sockrpc.peer.peer import Peer
from sockrpc.peer.service import Service
from sockrpc.peer.table import live_entries
from sockrpc.testing.memory import End, Pair
from sockrpc.websocket.loop import context_of_running_loop
from tests.kit.handlers import EAGER
from tests.kit.inside import has_ended
from tests.kit.loops import LOOPS, new_event_loop
from tests.kit.pair import MemoryServer, RawEnd, mark_as_lost, read_though_paused
from tests.kit.support import CLOSE, PING, PONG, frame, request, serving, until
from tests.test_limits_time import ticks


def echo_app() -> sockrpc.App:
    app = sockrpc.App()
    app.method("echo")(lambda call: call.payload)
    return app


# Handlers


async def test_a_handler_that_closes_its_own_connection_at_once_is_cancelled_once() -> None:
    app = sockrpc.App()
    cancels: list[int] = []

    @app.method("close")
    async def close(call: sockrpc.Call) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            await call.socket.close()
            await asyncio.get_running_loop().create_future()
        finally:
            cancels.append(task.cancelling())

    async with serving(app) as here, here.connect() as client:
        with pytest.raises(sockrpc.ConnectionLost):
            await client.call("close")
        await until(lambda: cancels != [])
        assert cancels == [1]
        await until(lambda: here.server.statistics().calls_running == 0)


@pytest.mark.parametrize("completes", [False, True], ids=["ordinary", "run to completion"])
async def test_a_handler_that_answers_and_closes_its_own_connection_at_once_goes_on_only_to_completion(
    completes: bool,
) -> None:
    """The end finds nothing in flight, and no task to cancel yet."""
    app = sockrpc.App()
    gate = asyncio.Event()
    ends: list[int] = []

    @app.method("close", run_to_completion=completes)
    async def close(call: sockrpc.Call) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            await call.respond("good-bye")
            await call.socket.close()
            await gate.wait()
        finally:
            ends.append(task.cancelling())

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "close"))
        assert await raw.answer() == (1, b"good-bye")
        assert await raw.closing() == (1000, "")
        await raw.close()
        if completes:
            await until(lambda: not here.server.connections)
            for _ in range(20):
                await asyncio.sleep(0)
            assert (here.server.statistics().calls_running, ends) == (1, [])
            gate.set()
        await until(lambda: here.server.statistics().calls_running == 0)
    assert ends == [0 if completes else 1]


@pytest.mark.skipif(not EAGER, reason="on 3.11 a first step is the event loop's own")
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_a_handler_that_answers_and_ends_the_process_has_answered(error: type[BaseException]) -> None:
    app = echo_app()

    @app.method("end")
    async def end(call: sockrpc.Call) -> None:
        await call.respond("last words")
        raise error

    # The constructor of the eager task raises, so nobody but asyncio ever sees that task.
    untold: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: untold.append(context["message"]))
    async with MemoryServer(app, close_timeout=0.1) as here:
        raw, _ = here.raw()
        raw.send(request(1, "end"))
        await here.settle_past(error)
        gc.collect()
        assert untold == ["Task exception was never retrieved"]
        raw.send(request(2, "echo", b"on"))
        await here.settle()
        assert raw.answers == [(1, b"last words"), (2, b"on")]
        statistics = here.server.statistics()
        assert (statistics.calls_answered, statistics.calls_failed, statistics.calls_running) == (2, 0, 0)


# Transports


async def test_a_connection_that_was_given_up_before_its_transport_was_made_closes_it() -> None:
    protocol = Peer("client", Service(Settings(Limits()), context_of_running_loop()))
    protocol.abort("given up")
    pair = Pair(RawEnd(), protocol)
    assert pair.client.lost
    await until(lambda: protocol.wait_lost().done())


async def test_bytes_that_a_transport_delivers_after_the_loss_are_dropped() -> None:
    async with MemoryServer(echo_app()) as here:
        _, pair = here.raw()
        pair.client.die()
        await here.settle()
        assert pair.server.lost
        late = request(1, "echo")
        pair.server.protocol.get_buffer(-1)[: len(late)] = late
        pair.server.protocol.buffer_updated(len(late))
        assert here.server.statistics().calls_started == 0


async def test_a_read_that_was_under_way_when_reading_was_paused_is_kept() -> None:
    app = sockrpc.App()
    may_answer = asyncio.Event()

    @app.method("wait")
    async def wait(call: sockrpc.Call) -> bytes:
        await may_answer.wait()
        return call.payload

    async with MemoryServer(app, max_in_flight=1, max_waiting_calls=1) as here:
        raw, pair = here.raw()
        raw.send(request(1, "wait", b"1"), request(2, "wait", b"2"))
        await here.settle()
        assert not pair.server.is_reading()
        late = bytearray(request(3, "wait", b"3") + request(4, "wait", b"4"))
        read_though_paused(pair.server, late)
        assert here.server.statistics().procedures_waiting == 1
        may_answer.set()
        await here.settle()
        assert raw.answers == [(n, b"%d" % n) for n in range(1, 5)]


async def test_a_transport_that_tells_of_more_bytes_than_there_was_room_for_is_not_believed() -> None:
    # What is left of its message never comes; so the close is not answered, either.
    async with MemoryServer(echo_app(), close_timeout=0.05) as here:
        _, pair = here.raw()
        whole = request(1, "echo", bytes(1_000_000))
        pair.client.write(whole[:60_000])
        pair.deliver_all()
        room = pair.server.protocol.get_buffer(-1)
        assert len(room) > 100_000
        with pytest.raises(ValueError, match="more bytes received than reserved"):
            pair.server.protocol.buffer_updated(100_000_000)


async def test_a_transport_may_say_good_bye_from_inside_a_read() -> None:
    app = echo_app()
    pairs: list[Pair] = []

    @app.method("lose")
    def lose(call: sockrpc.Call) -> bytes:
        mark_as_lost(pairs[0].server)
        pairs[0].server.protocol.connection_lost(None)
        return b"too late"

    async with MemoryServer(app) as here:
        raw, pair = here.raw()
        pairs.append(pair)
        raw.send(request(1, "lose"), request(2, "echo"))
        await here.settle()
        assert raw.answers == []
        statistics = here.server.statistics()
        assert (statistics.connections, statistics.calls_lost, statistics.calls_started) == (0, 1, 1)
        pair.client.die()


async def test_a_large_answer_to_a_transport_that_has_failed_is_dropped() -> None:
    app = sockrpc.App()
    pairs: list[Pair] = []

    @app.method("large")
    def large(call: sockrpc.Call) -> bytes:
        pairs[0].server.abort()
        return bytes(100_000)

    async with MemoryServer(app) as here:
        raw, pair = here.raw()
        pairs.append(pair)
        raw.send(request(1, "large"))
        await here.settle()
        assert (raw.answers, pair.server.lost) == ([], True)


async def test_two_transports_that_end_in_one_sweep() -> None:
    # The first that is given up takes the other with it, before the sweep comes to that one.
    swept: list[End] = []

    class Both(End):
        def abort(self) -> None:
            swept.append(self)
            for end in ends:
                mark_as_lost(end)
                end.protocol.connection_lost(None)

    async with MemoryServer(echo_app(), handshake_timeout=0.05) as here:
        ends = [Both(Peer("server", here.service), 1000, True, str(n)) for n in range(2)]
        for end in ends:
            end.protocol.connection_made(end)
        await until(lambda: swept != [])
        assert len(swept) == 1
        assert all(has_ended(end.protocol) for end in ends)


async def test_what_waits_behind_a_close_frame_is_not_answered() -> None:
    async with MemoryServer(echo_app(), output_high_bytes=1000, output_low_bytes=500) as here:
        raw, pair = here.raw(capacity=1)
        connection = pair.server.protocol
        connection.notify(b"event", bytes(2000))
        assert not connection.is_writable()
        ping = bytearray(frame(PING, b"still there?"))
        read_though_paused(pair.server, ping)
        connection.close(1000, "")
        pair.server.capacity = 10_000
        await here.settle()
        assert [opcode for opcode, _ in raw.frames][1:] == [CLOSE]


async def test_a_connection_that_was_lost_over_its_output_is_not_full() -> None:
    limits = {"output_high_bytes": 1000, "output_low_bytes": 500, "output_max_bytes": 1000}
    async with MemoryServer(echo_app(), **limits) as here:
        _, pair = here.raw(capacity=1)
        connection = pair.server.protocol
        connection.notify(b"event", bytes(2000))
        assert connection.is_full()
        pair.cut()
        await until(lambda: pair.server.lost)
        await asyncio.sleep(0)
        assert not connection.is_full()


async def test_a_ping_behind_bytes_on_a_slow_line_is_not_late_while_they_move() -> None:
    async with MemoryServer(echo_app(), ping_interval=0.05, ping_timeout=0.1) as here:
        raw, pair = here.raw(capacity=1)
        connection = pair.server.protocol
        connection.notify(b"event", bytes(1000))
        async for _ in ticks(0.8, every=0.02):
            # Five pings' time, and the ping itself is still here.
            pair.client.receive(1)
            assert not has_ended(connection)
        assert raw.frames == []
        pair.server.capacity = 10_000
        await until(lambda: pair.deliver_all() or PING in [opcode for opcode, _ in raw.frames])
        raw.send(frame(PONG, b"sockrpc"))
        pair.deliver_all()
        assert not has_ended(connection)


# Loops


def test_a_loop_that_was_closed_over_its_connections_is_let_go() -> None:
    def run() -> weakref.ref[Any]:
        async def use() -> None:
            context_of_running_loop()

        loop = asyncio.new_event_loop()
        loop.run_until_complete(use())
        loop.close()
        return weakref.ref(loop)

    first = run()
    second = run()
    gc.collect()
    assert first() is None
    assert second() is not None


@pytest.mark.parametrize("kind", LOOPS)
def test_calls_of_a_loop_that_was_closed_over_them_are_let_go(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def leave_two_calls() -> None:
        app = sockrpc.App()

        @app.method
        async def wait(call: sockrpc.Call) -> None:
            await asyncio.Event().wait()

        here = MemoryServer(app, max_in_flight=1)
        raw, _ = here.raw()
        raw.send(request(1, "wait"), request(2, "wait"))
        await here.settle()

    async def begin_anew() -> None:
        context_of_running_loop()

    before = live_entries()
    for play, entries in ((leave_two_calls, 2), (begin_anew, 0)):
        loop = new_event_loop(kind)
        loop.run_until_complete(play())
        loop.close()
        gc.collect()
        # What stood for the first loop goes where that of the next one comes.
        assert live_entries() == before + entries
    # Nobody could answer them, which is no failure of theirs.
    assert "call" not in [record.getMessage().split()[0] for record in caplog.records]
