"""The ways in and out of a client's connection, and what its errors say."""

from __future__ import annotations

import asyncio

import pytest

import sockrpc
from tests.kit.raw_server import RawServer, connected
from tests.kit.support import CLOSE, serving, started, until


def echo_app() -> sockrpc.App:
    app = sockrpc.App()
    app.method("echo")(lambda call: call.payload)
    return app


async def test_awaiting_connect_leaves_the_closing_to_the_caller() -> None:
    async with serving(echo_app()) as here:
        client = await here.connect()
        assert await client.call("echo", "x") == b"x"
        await client.close()
        with pytest.raises(sockrpc.ConnectionClosed):
            await client.call("echo", "x")


async def test_a_client_is_a_context_itself() -> None:
    async with serving(echo_app()) as here:
        async with await here.connect() as client:
            assert await client.call("echo", "x") == b"x"
        await until(lambda: not here.server.connections)


async def test_leaving_the_block_closes_whatever_happens_in_it() -> None:
    async with serving(echo_app()) as here:
        with pytest.raises(LookupError, match="mine"):
            async with here.connect() as client:
                raise LookupError("mine")
        with pytest.raises(sockrpc.ConnectionClosed):
            await client.call("echo")
        async with here.connect() as client:
            await client.close()
        await until(lambda: not here.server.connections)


async def test_one_connect_may_be_used_again() -> None:
    async with serving(echo_app()) as here:
        connect = here.connect()
        for _ in range(2):
            async with connect as client:
                assert await client.call("echo", "x") == b"x"
        client = await connect
        assert await client.call("echo", "x") == b"x"
        await client.close()


async def test_close_sends_its_code_and_reason_and_waits_for_the_server() -> None:
    async with connected() as (client, peer):
        closing = await started(client.close(4000, "enough"))
        assert await peer.receive() == (CLOSE, (4000).to_bytes(2, "big") + b"enough")
        await peer.close_politely(4000)
        assert not closing.done()
        await peer.finish()
        await closing


async def test_close_waits_no_longer_than_close_timeout() -> None:
    async with connected(close_timeout=0.1) as (client, peer):
        await client.close()
        assert await peer.receive() == (CLOSE, (1000).to_bytes(2, "big"))


async def test_a_second_close_changes_nothing_and_waits_too() -> None:
    async with connected() as (client, peer):
        closings = [await started(client.close(code)) for code in (4001, 4002)]
        assert await peer.receive() == (CLOSE, (4001).to_bytes(2, "big"))
        assert not closings[1].done()
        await peer.finish()
        await asyncio.gather(*closings)
        await client.close(4003)
        with pytest.raises(sockrpc.ConnectionClosed, match="4001"):
            await client.call("method")


async def test_cancelling_close_does_not_take_it_back() -> None:
    async with connected() as (client, peer):
        closing = await started(client.close())
        closing.cancel()
        await until(closing.done)
        assert await peer.receive() == (CLOSE, (1000).to_bytes(2, "big"))
        with pytest.raises(sockrpc.ConnectionClosed):
            await client.notify("event")
        await peer.finish()
        await client.wait_closed()


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65536, -1])
async def test_a_code_that_may_not_be_sent_is_a_usage_error_and_closes_nothing(code: int) -> None:
    async with serving(echo_app()) as here, here.connect() as client:
        with pytest.raises(sockrpc.UsageError, match=str(code)):
            await client.close(code)
        assert await client.call("echo", "x") == b"x"


@pytest.mark.parametrize(
    ("reason", "sent"),
    [("x" * 123, "x" * 123), ("x" * 124, "x" * 123), ("é" * 62, "é" * 61), ("👋" * 31, "👋" * 30)],
    ids=["123 bytes", "124 bytes", "a cut character", "another"],
)
async def test_a_long_reason_is_cut_at_a_character(reason: str, sent: str) -> None:
    async with connected() as (client, peer):
        closing = await started(client.close(1000, reason))
        assert await peer.receive() == (CLOSE, (1000).to_bytes(2, "big") + sent.encode())
        await peer.finish()
        await closing


async def test_calls_in_flight_fail_at_once_with_our_own_close() -> None:
    async with connected() as (client, peer):
        calls = [await started(client.call("method")) for _ in range(3)]
        closing = await started(client.close(4000, "enough"))
        for call in calls:
            with pytest.raises(sockrpc.ConnectionClosed) as raised:
                await call
            assert (raised.value.code, raised.value.reason) == (4000, "enough")
        # The server has not even read of it.
        assert not closing.done()
        assert client.status().pending == []
        await peer.finish()
        await closing


@pytest.mark.parametrize("end", ["close frame", "end of file", "broken line"])
async def test_calls_in_flight_fail_at_once_with_a_loss_and_none_is_replayed(end: str) -> None:
    async with RawServer() as server:
        connecting = asyncio.ensure_future(open_client(server.uri))
        peer = await server.accept()
        client = await connecting
        calls = [await started(client.call("method")) for _ in range(3)]
        assert [await peer.request() for _ in calls] == [1, 2, 3]
        await peer.answer(2)
        assert await calls.pop(1) == b"answer"
        if end == "close frame":
            await peer.close_politely(1001)
        elif end == "end of file":
            await peer.finish()
        else:
            peer.reset_line()
        errors = await asyncio.gather(*calls, return_exceptions=True)
        # One each, as a traceback grows on each.
        assert len({id(error) for error in errors}) == 2
        for error in errors:
            assert isinstance(error, sockrpc.ConnectionLost)
            assert error.code == (1001 if end == "close frame" else 1006)
        for doing in (client.call("method"), client.notify("event")):
            with pytest.raises(sockrpc.ConnectionLost):
                await doing
        await peer.finish()
        await client.wait_closed()
        await client.close()
        assert server.accepted.empty()


async def open_client(uri: str) -> sockrpc.Client:
    return await sockrpc.connect(uri)


async def test_wait_closed_waits_for_whoever_ends_it() -> None:
    async with connected() as (client, peer):
        waiting = await started(client.wait_closed())
        cancelled = await started(client.wait_closed())
        await peer.synchronize()
        assert not waiting.done()
        cancelled.cancel()
        await peer.close_politely(1001)
        await peer.finish()
        await waiting
        await client.wait_closed()


async def test_a_server_s_close_is_told_with_code_and_reason() -> None:
    async def handle_socket(socket: sockrpc.Socket) -> None:
        async for procedure in socket:
            assert isinstance(procedure, sockrpc.Call)
            await socket.close(4321, "be gone")

    async with serving(handle_socket) as here, here.connect() as client:
        listener = client.on("event")
        with pytest.raises(sockrpc.ConnectionLost) as raised:
            await client.call("method")
        assert (raised.value.code, raised.value.reason) == (4321, "be gone")
        assert str(raised.value) == "4321: be gone"
        with pytest.raises(sockrpc.ConnectionLost, match="4321: be gone"):
            await anext(listener)


@pytest.mark.parametrize("turns", [0, 10], ids=["while TCP connects", "in the opening handshake"])
async def test_cancelling_connect_leaves_nothing_behind(turns: int) -> None:
    async with RawServer() as server:
        connecting = asyncio.ensure_future(open_client(server.uri))
        peer = await server.accepted.get()
        await peer.wait(peer.reader.readuntil(b"\r\n\r\n"))
        for _ in range(turns):
            # On uvloop the request is there before the client's task has heard that it is connected.
            await asyncio.sleep(0)
        connecting.cancel()
        await until(connecting.done)
        assert connecting.cancelled()
        assert await peer.wait(peer.reader.read()) == b""


def test_the_tree_of_errors_and_what_each_says() -> None:
    errors: list[tuple[sockrpc.SockRPCError, str, dict[str, object]]] = [
        (sockrpc.UsageError("mine"), "mine", {}),
        (
            sockrpc.ProtocolError(1002, "theirs"),
            "closed with 1002: theirs",
            {"code": 1002, "reason": "theirs"},
        ),
        (sockrpc.HandshakeError("no"), "no", {"status": None, "reason": "no"}),
        (sockrpc.HandshakeError("no", 403), "HTTP 403: no", {"status": 403, "reason": "no"}),
        (
            sockrpc.RPCError(sockrpc.Code.NOT_FOUND, "nothing there", details=b"x"),
            "NOT_FOUND: nothing there",
            {"code": sockrpc.Code.NOT_FOUND, "message": "nothing there", "details": b"x"},
        ),
        (sockrpc.RPCError(200), "200", {"code": 200, "message": "", "outcome": sockrpc.Outcome.UNKNOWN}),
        (
            sockrpc.DeadlineExceeded(sockrpc.Code.DEADLINE_EXCEEDED, "late"),
            "DEADLINE_EXCEEDED: late",
            {"retry_after": None, "received": False},
        ),
        (sockrpc.ConnectionClosed(1000, ""), "1000", {"code": 1000, "reason": ""}),
        (sockrpc.ConnectionClosed(4000, "enough"), "4000: enough", {"code": 4000, "reason": "enough"}),
        (sockrpc.ConnectionLost(), "1006", {"code": 1006, "reason": ""}),
        (sockrpc.ConnectionLost(1001, "going"), "1001: going", {"code": 1001, "reason": "going"}),
        (sockrpc.ListenerOverflow("behind"), "behind", {}),
    ]
    for error, text, attributes in errors:
        assert isinstance(error, sockrpc.SockRPCError)
        assert type(error).__mro__.index(sockrpc.SockRPCError) <= 2
        assert str(error) == text
        assert {name: getattr(error, name) for name in attributes} == attributes
        copied = type(error)(*error.args)
        assert str(copied) == text
    assert not issubclass(sockrpc.ConnectionLost, sockrpc.ConnectionClosed)
    assert not issubclass(sockrpc.ConnectionClosed, sockrpc.ConnectionLost)
    assert not issubclass(sockrpc.SockRPCError, OSError | TimeoutError)
