"""`sockrpc.testing`: an app and its clients in memory, and the line between them, held and lost."""

from __future__ import annotations

import asyncio
import os

import pytest
from websockets.http11 import Request, Response

import sockrpc
from sockrpc import testing
from sockrpc.cli.pages import file_response
from sockrpc.testing.fixtures import InMemory, in_memory
from tests.kit.command import POSIX
from tests.kit.support import started, until
from tests.kit.work import Work

__all__ = ["in_memory"]

V0 = (sockrpc.SUBPROTOCOL,)


def make_app() -> sockrpc.App:
    app = sockrpc.App()
    app.method("echo")(lambda call: call.payload)
    room = sockrpc.Room()

    @app.on_connect
    def connected(socket: sockrpc.Socket) -> None:
        room.join(socket)

    @app.method
    def whoami(call: sockrpc.Call) -> str:
        host, port = call.socket.remote_address[:2]
        request = call.socket.request
        assert request is not None
        return f"{host} {port} {request.path} {request.headers.get('X-User')}"

    @app.on
    def say(notification: sockrpc.Notification) -> None:
        room.broadcast("said", notification.payload)

    return app


async def test_a_path_that_has_to_be_escaped_is_one_that_clients_ask_for() -> None:
    async with testing.connect(make_app(), path="/gr\xf6\xdfe a") as client:
        assert (await client.call("whoami")).split()[2] == b"/gr%C3%B6%C3%9Fe%20a"


async def test_a_client_has_what_every_client_has() -> None:
    async with testing.connect(make_app()) as client:
        assert isinstance(client, sockrpc.Client)
        assert await client.call("echo", "hello") == b"hello"
        said = client.on("said")
        await client.notify("say", "hi")
        assert await anext(said) == b"hi"
        calling = await started(client.call("echo"))
        assert client.status() == ([2], ["said"])
        assert await calling == b""
        assert client.server.statistics().calls_answered == 2
    with pytest.raises(sockrpc.ConnectionClosed):
        await client.call("echo")
    with pytest.raises(StopAsyncIteration):
        await anext(said)


@POSIX
async def test_there_is_no_socket() -> None:
    before = os.listdir("/dev/fd")
    async with testing.connect(make_app()) as client:
        assert await client.call("echo", b"x") == b"x"
        assert client.server.sockets == ()
        assert os.listdir("/dev/fd") == before


async def test_large_payloads_cross_in_both_directions() -> None:
    payload = bytes(range(256)) * 40_000
    async with testing.connect(make_app()) as client:
        assert await client.call("echo", payload) == payload


async def test_compressed_messages_cross() -> None:
    async with testing.connect(make_app(), compression="deflate") as client:
        assert await client.call("echo", bytes(100_000)) == bytes(100_000)


async def test_several_clients_of_one_server() -> None:
    async with (
        testing.serve(make_app()) as server,
        server.connect() as one,
        server.connect(headers={"X-User": "two"}, path="/here?at=2") as two,
    ):
        heard = [each.on("said") for each in (one, two)]
        await one.notify("say", "to all")
        assert [await anext(each) for each in heard] == [b"to all", b"to all"]
        assert len(server.server.connections) == 2
        assert await one.call("whoami") == b"127.0.0.1 49152 / None"
        assert await two.call("whoami") == b"127.0.0.1 49153 /here?at=2 two"
        three = await server.connect(remote_address=("192.0.2.1", 7))
        assert (await three.call("whoami")).startswith(b"192.0.2.1 7")
    assert server.server.statistics().connections == 0
    with pytest.raises(sockrpc.ConnectionClosed):
        await three.call("whoami")


async def test_the_socket_form_is_served_too() -> None:
    async def handle(socket: sockrpc.Socket) -> None:
        async for procedure in socket:
            assert isinstance(procedure, sockrpc.Call)
            await procedure.respond(procedure.method)

    async with testing.connect(handle) as client:
        assert await client.call("any") == b"any"


async def test_limits_are_those_of_the_server() -> None:
    async with testing.connect(make_app(), protocols=V0, max_message_bytes=100) as client:
        # Opcode, id, length of the name and the name stand before the payload.
        assert await client.call("echo", bytes(90)) == bytes(90)
        with pytest.raises(sockrpc.ConnectionLost, match="1009"):
            await client.call("echo", bytes(91))
    async with (
        testing.serve(make_app()) as server,
        server.connect(protocols=V0, max_message_bytes=100) as client,
    ):
        with pytest.raises(sockrpc.ProtocolError, match="1009"):
            await client.call("echo", bytes(100))
    with pytest.raises(sockrpc.UsageError, match="no such limit"):
        testing.connect(make_app(), nonsense=1)  # type: ignore[call-arg]


async def test_the_opening_handshake_is_the_real_one() -> None:
    def enter(socket: sockrpc.Socket, request: Request) -> Response | None:
        return None if "X-User" in request.headers else file_response("no.txt", b"no")

    async with testing.connect(make_app(), process_request=enter, headers={"X-User": "me"}) as client:
        assert (await client.call("whoami")).endswith(b" me")
    with pytest.raises(sockrpc.HandshakeError):
        await testing.connect(make_app(), process_request=enter).__aenter__()
    with pytest.raises(sockrpc.HandshakeError) as refused:
        await testing.connect(make_app(), origin="https://elsewhere.example").__aenter__()
    assert refused.value.status == 403
    async with testing.serve(make_app(), path="/rpc") as server:
        async with server.connect() as client:
            assert b" /rpc " in await client.call("whoami")
        with pytest.raises(sockrpc.HandshakeError) as lost:
            await server.connect(path="/elsewhere")
        assert lost.value.status == 404


async def test_a_cancelled_call_aborts_its_handler() -> None:
    work = Work()
    async with testing.connect(work.app()) as client:
        calling = await started(client.call("work"))
        await client.settle()
        assert [call.abort_reason for call in work.calls] == [None]
        calling.cancel()
        await client.settle()
        assert [call.abort_reason for call in work.calls] == ["reset"]


# The line


async def test_a_lost_line_is_lost_on_both_ends() -> None:
    work = Work()
    async with testing.connect(work.app()) as client:
        calling = await started(client.call("work"))
        pongs = client.on("pong")
        await client.settle()
        client.lose()
        await client.settle()
        with pytest.raises(sockrpc.ConnectionLost) as lost:
            await calling
        assert lost.value.code == 1006
        with pytest.raises(sockrpc.ConnectionLost):
            await anext(pongs)
        assert work.calls[0].abort_reason == "lost"
        assert client.server.connections == frozenset()
        client.lose()


async def test_what_is_held_is_gone_with_the_line() -> None:
    async with testing.connect(make_app()) as client:
        client.to_server.hold()
        calling = await started(client.call("echo"))
        assert client.to_server.held == 1
        client.lose()
        await client.settle()
        with pytest.raises(sockrpc.ConnectionLost):
            await calling
        client.to_server.release()
        await client.settle()
        assert client.server.statistics().calls_started == 0


async def test_what_is_sent_is_held_until_it_is_released() -> None:
    async with testing.connect(make_app()) as client:
        client.to_server.hold()
        calls = [await started(client.call("echo", str(i))) for i in range(3)]
        await client.settle()
        assert client.server.statistics().calls_started == 0
        assert client.to_server.held == 3
        assert client.to_server.deliver() == 1
        await client.settle()
        assert [each.done() for each in calls] == [True, False, False]
        assert client.to_server.held == 2
        client.to_server.release()
        assert await asyncio.gather(*calls) == [b"0", b"1", b"2"]
        assert client.to_server.held == 0
        assert client.to_server.deliver() == 0
        assert await client.call("echo") == b""


async def test_answers_are_held_apart_from_requests() -> None:
    async with testing.connect(make_app()) as client:
        client.to_client.hold()
        # The second time holds nothing more.
        client.to_client.hold()
        calls = [await started(client.call("echo", bytes(size))) for size in (0, 200, 100_000)]
        await client.settle()
        assert client.server.statistics().calls_answered == 3
        assert [each.done() for each in calls] == [False, False, False]
        # Headers of two, four and ten bytes.
        for i in range(3):
            assert client.to_client.deliver() == 1
            await client.settle()
            assert [each.done() for each in calls] == [True] * (i + 1) + [False] * (2 - i)
        assert client.to_client.deliver(7) == 0


async def test_an_answer_that_crosses_a_reset_is_dropped_by_the_client() -> None:
    async with testing.connect(make_app()) as client:
        client.to_client.hold()
        calling = await started(client.call("echo"))
        await client.settle()
        # Answered, and the client does not know yet.
        assert client.to_client.held == 1
        calling.cancel()
        await client.settle()
        client.to_client.release()
        await client.settle()
        counts = client.server.statistics()
        assert (counts.calls_answered, counts.calls_reset) == (1, 0)
        assert calling.cancelled()
        assert await client.call("echo", "again") == b"again"


async def test_a_reset_that_crosses_an_answer_has_no_effect_on_the_server() -> None:
    work = Work()
    async with testing.connect(work.app()) as client:
        calling = await started(client.call("work"))
        await client.settle()
        client.to_server.hold()
        calling.cancel()
        await client.settle()
        assert client.to_server.held == 1
        assert work.calls[0].abort_reason is None
        client.to_server.release()
        await until(lambda: work.calls[0].abort_reason == "reset")


async def test_a_frame_that_has_begun_to_arrive_is_not_held() -> None:
    app = make_app()
    got: list[bytes] = []
    app.on("large")(lambda notification: got.append(notification.payload))
    async with testing.connect(app) as client:
        await client.notify("large", bytes(1_000_000))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        client.to_server.hold()
        await client.notify("large", b"next")
        await client.settle()
        assert [len(each) for each in got] == [1_000_000]
        assert client.to_server.held == 1
        client.to_server.release()
        await client.settle()
        assert got[1:] == [b"next"]


async def test_a_held_direction_is_a_slow_peer() -> None:
    async with testing.connect(make_app(), output_high_bytes=1000, output_low_bytes=100) as client:
        (peer,) = client.server.connections
        client.to_client.hold()
        assert peer.notify_nowait("news", bytes(64 * 1024))
        sending = await started(peer.notify("news", bytes(2000)))
        await client.settle()
        blocked = await started(peer.notify("news", b"third"))
        await client.settle()
        assert (sending.done(), blocked.done()) == (True, False)
        client.to_client.release()
        await blocked


async def test_the_end_of_a_connection_is_held_like_what_it_carries() -> None:
    async with testing.connect(make_app()) as client:
        (peer,) = client.server.connections
        client.to_client.hold()
        closing = await started(peer.close(1000, "bye"))
        await client.settle()
        assert not closing.done()
        waiting = await started(client.wait_closed())
        client.to_client.release()
        await waiting
        await closing


async def test_what_is_held_does_not_keep_the_block() -> None:
    async with testing.connect(make_app()) as client:
        client.to_client.hold()
        client.to_server.hold()
        calling = await started(client.call("echo"))
    with pytest.raises(sockrpc.ConnectionClosed):
        await calling


def test_a_plain_test_runs_it_by_the_fixture(in_memory: InMemory) -> None:
    async def test() -> bytes:
        async with in_memory.connect(make_app()) as client:
            return await client.call("echo", "hello")

    assert in_memory.run(test()) == b"hello"


async def test_the_fixture_owns_no_loop(in_memory: InMemory) -> None:
    async with in_memory.serve(make_app()) as server, server.connect() as client:
        assert await client.call("echo", "hello") == b"hello"
