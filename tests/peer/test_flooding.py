"""A peer that sends faster than it is served, or what can not become a request: decided early, and fairly."""

from __future__ import annotations

import asyncio
import itertools
import ssl
import time

import pytest

import sockrpc
from tests.kit.deflate import compressed, deflating
from tests.kit.http_peer import ask_to_open
from tests.kit.inside import working
from tests.kit.pair import MemoryServer
from tests.kit.support import PING, frame, notify, opening, request, serving, until

# The loop's receive buffer; a read that fills it tells that there is more.
FULL = 256 * 1024


async def test_four_full_reads_in_a_row_are_a_connection_s_turn() -> None:
    app = sockrpc.App()
    app.method("echo")(lambda call: call.payload)
    async with MemoryServer(app) as here:
        raw, pair = here.raw(capacity=8 * FULL)
        raw.send(frame(PING, bytes(58)) * (5 * FULL // 64), request(1, "echo", b"after"))
        for _ in range(3):
            assert pair.server.receive(FULL) == FULL
            assert pair.server.is_reading()
        assert pair.server.receive(FULL) == FULL
        assert not pair.server.is_reading(), "libuv would go on for 32 reads, and others would wait"
        # The others had their turn.
        await here.settle()
        assert pair.server.is_reading()
        assert raw.answers == [(1, b"after")]


async def test_reads_that_leave_room_are_not_held_up() -> None:
    async with MemoryServer(sockrpc.App()) as here:
        raw, pair = here.raw(capacity=8 * FULL)
        raw.send(frame(PING, bytes(58)) * (8 * FULL // 64))
        for _ in range(8):
            assert pair.server.receive(FULL - 1) == FULL - 1
            assert pair.server.is_reading()


@pytest.mark.parametrize(
    "data",
    [b"\x00", b"\x81", b"\r\n", b" GET", b"G\x00", b"GET\t/", b"GET:", b"x" * 33, b"{", b"GET\r"],
    ids=repr,
)
async def test_what_no_request_begins_with_is_refused_at_its_first_bytes(data: bytes) -> None:
    async with serving(sockrpc.App()) as here:
        answer = await ask_to_open(here.port, data)
        assert answer.status == 400
        assert answer.body == b"This is not an HTTP/1.1 request.\n"


async def test_tls_on_a_plain_port_is_told_so() -> None:
    outgoing = ssl.MemoryBIO()
    hello = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        hello.do_handshake()
    async with serving(sockrpc.App()) as here:
        answer = await ask_to_open(here.port, outgoing.read())
        assert answer.status == 400
        assert b"this port is for ws, not wss" in answer.body


@pytest.mark.parametrize("method", ["x" * 32, "M-SEARCH", "!#$%&'*+.^_`|~09azAZ-"])
async def test_every_token_may_be_a_method_as_far_as_its_first_bytes_tell(method: str) -> None:
    async with serving(sockrpc.App()) as here:
        answer = await ask_to_open(here.port, opening().replace(b"GET", method.encode(), 1))
        assert answer.body != b"This is not an HTTP/1.1 request.\n"
        assert answer.status != 101


async def test_calls_of_unknown_methods_are_held_to_a_connection_s_turn(
    caplog: pytest.LogCaptureFixture,
) -> None:
    one = request(1, "unknown")
    # All of them come in one read; the last has another id.
    calls = FULL // len(one) - 10
    async with MemoryServer(sockrpc.App()) as here:
        raw, pair = here.raw(capacity=8 * FULL)
        raw.send(one * calls, request(2, "unknown", b"last"))
        pair.server.receive(FULL - 1)
        failed = here.server.statistics().calls_failed
        assert 0 < failed < calls, "all of them were one turn"
        assert not pair.server.is_reading()
        await until(lambda: here.server.statistics().calls_failed == calls + 1)
    assert len(caplog.records) == 1


async def test_compressed_messages_are_held_to_a_connection_s_turn() -> None:
    messages, most = 32, 4 * 2**20
    notification = b"\x01\x07nothing" + bytes(most - 100)
    async with serving(sockrpc.App(), compression="deflate") as here, await deflating(here.port) as raw:
        parts = [compressed(raw.deflate.compress(notification)) for _ in range(messages)]
        data = b"".join(part for (part,) in parts)
        assert len(data) < FULL, "all of them may come in one read"
        dropped = [0]
        await raw.send(data)
        while dropped[-1] < messages:
            await asyncio.sleep(0)
            dropped.append(here.server.statistics().notifications_dropped)
        largest = max(after - before for before, after in itertools.pairwise(dropped))
        assert largest <= messages // 2, "many milliseconds of decompression were one turn"


@pytest.mark.parametrize("how", ["closed", "reset", "end of file"])
async def test_notifications_that_were_read_before_a_loss_and_not_handled_are_counted(how: str) -> None:
    """Those of a read that was more than one turn are behind it when the line breaks."""
    app = sockrpc.App()

    @app.on("slow")
    def slow(notification: sockrpc.Notification) -> None:
        end = time.perf_counter() + 0.001
        while time.perf_counter() < end:
            pass

    sent = 1000
    async with MemoryServer(app) as here:
        raw, pair = here.raw(capacity=8 * FULL)
        # Calls are lost with the line, and no notifications.
        raw.send(notify("slow") * sent, request(1, "nobody"), notify("slow")[:-1])
        pair.server.receive(FULL)
        assert 0 < here.server.statistics().notifications_started < sent, "all of them were one turn"
        if how == "end of file":
            pair.server.get_protocol().eof_received()
            pair.server.close()
        else:
            pair.server.die() if how == "closed" else pair.server.break_off()
        await until(lambda: not here.service.working)
        counts = here.server.statistics()
        assert counts.notifications_dropped > 0
        assert counts.notifications_started + counts.notifications_dropped == sent


async def test_notifications_behind_a_full_queue_that_is_lost_are_counted() -> None:
    app = sockrpc.App()
    may_end = asyncio.Event()

    @app.on("slow")
    async def slow(notification: sockrpc.Notification) -> None:
        await may_end.wait()

    async with MemoryServer(app, max_notifications=1, max_waiting_calls=3) as here:
        raw, pair = here.raw()
        raw.send(notify("slow") * 50)
        pair.server.receive(FULL)
        assert here.server.statistics().procedures_waiting == 3
        pair.server.break_off()
        may_end.set()
        await until(lambda: not here.service.working)
        counts = here.server.statistics()
        # Those that wait in the queue still start.
        assert (counts.notifications_started, counts.notifications_dropped) == (4, 46)


@pytest.mark.parametrize("kind", ["notification", "unwinding", "completing", "undoing"])
async def test_a_lost_connection_counts_until_the_work_that_it_began_has_ended(kind: str) -> None:
    """Else who connects, has work begun, leaves and comes again gets past every limit of a connection."""
    app = sockrpc.App()
    begun: list[object] = []
    may_end = asyncio.Event()

    async def linger() -> None:
        await may_end.wait()

    @app.on("notification")
    async def handle(notification: sockrpc.Notification) -> None:
        begun.append(notification)
        await may_end.wait()

    @app.method("unwinding")
    async def unwind(call: sockrpc.Call) -> None:
        begun.append(call)
        try:
            await call.socket.state.forever.wait()
        finally:
            await may_end.wait()

    @app.method("completing", run_to_completion=True)
    async def complete(call: sockrpc.Call) -> None:
        begun.append(call)
        await may_end.wait()

    @app.method("undoing")
    async def undo(call: sockrpc.Call) -> None:
        begun.append(call)
        call.on_abort(linger)
        await call.socket.state.forever.wait()

    @app.on_connect
    def connected(socket: sockrpc.Socket) -> None:
        socket.state.forever = asyncio.Event()

    async with serving(app, max_connections=2) as here:
        for count in (1, 2):
            async with await here.raw() as raw:
                await raw.send(notify(kind) if kind == "notification" else request(1, kind))
                await until(lambda count=count: len(begun) == count)
            await until(lambda: not here.server.connections)
        assert (await ask_to_open(here.port, opening())).status == 503
        may_end.set()
        await until(lambda: not working(here.server))
        async with await here.raw() as raw:
            await raw.synchronize()


async def test_calls_that_waited_take_turns_with_other_connections() -> None:
    app = sockrpc.App()
    may_begin = asyncio.Event()
    burnt: list[int] = []
    seen: list[int] = []
    sockets: list[sockrpc.Socket] = []

    @app.on_connect
    async def hold_the_first(socket: sockrpc.Socket) -> None:
        sockets.append(socket)
        if len(sockets) == 1:
            await may_begin.wait()

    @app.method("burn")
    def burn(call: sockrpc.Call) -> None:
        until_then = time.perf_counter() + 0.003
        while time.perf_counter() < until_then:
            pass
        burnt.append(call.id)

    @app.method("look")
    def look(call: sockrpc.Call) -> None:
        seen.append(len(burnt))

    async with serving(app) as here, await here.raw() as busy:
        await busy.send(*(request(n, "burn") for n in range(30)))
        await until(lambda: here.server.statistics().procedures_waiting == 30)
        async with await here.raw() as other:
            await other.synchronize()
            may_begin.set()
            await other.send(request(1, "look"))
            await other.answer()
        for _ in range(30):
            await busy.answer()
    assert burnt == list(range(30))
    assert seen[0] < 30
