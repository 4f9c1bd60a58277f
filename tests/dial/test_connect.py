"""The opening handshake of the client: what it sends, and what it makes of each answer."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from typing import Any

import pytest

import sockrpc
from tests.kit.inside import working
from tests.kit.raw_server import RawServer, open_client, response
from tests.kit.support import DELIVERIES, PATIENCE, SUBPROTOCOL, deliver, serving, until
from tests.kit.work import Work


async def error_after(
    answer: bytes, *, eof: bool = False, how: str = "whole", **options: Any
) -> BaseException:
    """The exception that `connect` raises when the server answers this to the opening request."""
    async with RawServer() as server:
        connecting = asyncio.ensure_future(open_client(server.uri, options))
        peer = await server.peer()
        await peer.read_head()
        await deliver(peer, answer, how)
        if eof:
            await peer.finish()
        await asyncio.wait([connecting], timeout=PATIENCE)
        assert connecting.done(), "connect still waits"
        if not eof:
            assert await peer.nothing_more()
        error = connecting.exception()
        assert error is not None
        return error


def refusal(status: int, body: bytes, **fields: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name.replace('_', '-')}: {fields[name]}" for name in fields)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.mark.parametrize("how", DELIVERIES)
@pytest.mark.parametrize("status", [301, 401, 404, 503])
async def test_a_refusal_carries_its_status_and_what_the_body_says(status: int, how: str) -> None:
    error = await error_after(refusal(status, b"because of this\n", Content_Length="16"), how=how)
    assert isinstance(error, sockrpc.HandshakeError)
    assert error.status == status
    assert error.reason == "because of this"
    assert str(error) == f"HTTP {status}: because of this"


@pytest.mark.parametrize(
    ("answer", "eof", "reason"),
    [
        (refusal(403, b"to the end", Connection="close"), True, "to the end"),
        (
            refusal(403, b"4\r\nsome\r\n6\r\n parts\r\n0\r\n\r\n", Transfer_Encoding="chunked"),
            False,
            "some parts",
        ),
        (refusal(403, b"", Content_Length="0"), False, "Whatever"),
        (refusal(403, b"", Connection="close"), True, "Whatever"),
        (refusal(403, b"\xff\xfe", Content_Length="2"), False, "\ufffd\ufffd"),
        (refusal(403, b"x" * 5000, Content_Length="5000"), False, "x" * 300),
    ],
    ids=["to end of file", "chunked", "empty", "empty to end of file", "not UTF-8", "long"],
)
async def test_the_body_of_a_refusal_in_each_of_its_forms(answer: bytes, eof: bool, reason: str) -> None:
    error = await error_after(answer, eof=eof)
    assert isinstance(error, sockrpc.HandshakeError)
    assert (error.status, error.reason) == (403, reason)


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-WebSocket-Protocol": ""},
        {"Sec-WebSocket-Protocol": "chat"},
        {"Sec-WebSocket-Protocol": SUBPROTOCOL.upper()},
        {"Sec-WebSocket-Protocol": f"{SUBPROTOCOL}, chat"},
        {"Sec-WebSocket-Accept": ""},
        {"Sec-WebSocket-Accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="},
        {"Upgrade": ""},
        {"Upgrade": "h2c"},
        {"Connection": ""},
        {"Sec-WebSocket-Extensions": "permessage-deflate"},
    ],
    ids=str,
)
async def test_an_answer_that_confirms_something_else_is_no_success(headers: dict[str, str]) -> None:
    async with RawServer() as server:
        connecting = asyncio.ensure_future(open_client(server.uri, {}))
        peer = await server.accept(headers=headers)
        with pytest.raises(sockrpc.HandshakeError) as raised:
            await peer.wait(connecting)
        assert raised.value.status is None
        assert await peer.nothing_more()


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x50\r\n\r\n",
        b"HTTP/1.0 101 Switching Protocols\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nno colon\r\n\r\n",
        b"\r\n\r\n",
    ],
)
async def test_an_answer_that_is_not_http_is_no_success(answer: bytes) -> None:
    error = await error_after(answer)
    assert isinstance(error, sockrpc.HandshakeError)
    assert error.status is None


async def test_an_answer_as_large_as_max_handshake_bytes_is_accepted_with_frames_behind_it() -> None:
    async with RawServer() as server:
        # All answers are of this size, as the key is.
        size = await size_of_answer(server)
        connecting = asyncio.ensure_future(open_client(server.uri, {"max_handshake_bytes": size}))
        peer = await server.accept(then=response(7, b"x" * 1000))
        client = await peer.wait(connecting)
        await peer.finish()
        await peer.wait(client.wait_closed())
        connecting = asyncio.ensure_future(open_client(server.uri, {"max_handshake_bytes": size - 1}))
        await server.accept()
        with pytest.raises(sockrpc.HandshakeError, match=f"larger than {size - 1} bytes"):
            await peer.wait(connecting)


async def size_of_answer(server: RawServer) -> int:
    """How many bytes the raw server answers an opening request with."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
    await server.accept()
    size = len(await reader.readuntil(b"\r\n\r\n"))
    writer.close()
    return size


async def test_an_answer_without_an_end_is_refused_at_the_limit() -> None:
    error = await error_after(b"HTTP/1.1 101 ".ljust(1001, b"x"), max_handshake_bytes=1000)
    assert isinstance(error, sockrpc.HandshakeError)
    assert "larger than 1000 bytes" in str(error)


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 101 Switch", b"HTTP/1.1 101 Switching Protocols\r\nA: b\r\n"]
)
async def test_end_of_file_in_the_handshake_is_a_lost_connection(answer: bytes) -> None:
    error = await error_after(answer, eof=True)
    assert isinstance(error, sockrpc.ConnectionLost)
    assert error.code == 1006


async def test_a_line_that_is_cut_in_the_handshake_is_a_lost_connection() -> None:
    async with RawServer() as server:
        connecting = asyncio.ensure_future(open_client(server.uri, {}))
        peer = await server.peer()
        await peer.read_head()
        peer.reset_line()
        with pytest.raises(sockrpc.ConnectionLost):
            await peer.wait(connecting)


async def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            await sockrpc.connect(f"ws://127.0.0.1:{unused.getsockname()[1]}/")


@pytest.mark.parametrize("limit", ["open_timeout", "handshake_timeout"])
async def test_a_server_that_does_not_answer_is_a_time_out(limit: str) -> None:
    loop = asyncio.get_running_loop()
    async with RawServer() as server:
        began = loop.time()
        options: dict[str, Any] = {limit: 0.2}
        with pytest.raises(TimeoutError):
            await sockrpc.connect(server.uri, **options)
        assert 0.19 < loop.time() - began < PATIENCE
        peer = await server.peer()
        await peer.read_head()
        assert await peer.nothing_more()


async def test_open_timeout_may_be_longer_than_handshake_timeout() -> None:
    async with RawServer() as server:
        options: dict[str, Any] = {"open_timeout": PATIENCE, "handshake_timeout": 0.1}
        connecting = asyncio.ensure_future(open_client(server.uri, options))
        peer = await server.peer()
        await asyncio.wait([connecting], timeout=0.5)
        await peer.shake_hands()
        client = await peer.wait(connecting)
        await peer.finish()
        await client.wait_closed()


async def test_a_connect_that_is_cancelled_leaves_nothing() -> None:
    async with RawServer() as server:
        connecting = asyncio.ensure_future(open_client(server.uri, {}))
        peer = await server.peer()
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        await peer.read_head()
        assert await peer.nothing_more()


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "127.0.0.1:3000",
        "http://127.0.0.1/",
        "ws:/127.0.0.1",
        "ws://",
        "ws://:3000/",
        "ws://127.0.0.1/#fragment",
        "ws://user@127.0.0.1/",
        "ws://127.0.0.1:port/",
        "ws://127.0.0.1:65536/",
        "ws://127.0.0.1:-1/",
        "ws://[::1/",
    ],
)
async def test_a_bad_uri_is_a_usage_error(uri: str) -> None:
    with pytest.raises(sockrpc.UsageError):
        sockrpc.connect(uri)


@pytest.mark.parametrize(
    "options",
    [
        {"max_in_flight": 1},
        {"no_such_limit": 1},
        {"max_message_bytes": 0},
        {"ping_interval": -1},
        {"handshake_timeout": None},
    ],
    ids=str,
)
async def test_what_is_no_limit_of_a_client_is_a_usage_error(options: dict[str, Any]) -> None:
    with pytest.raises(sockrpc.UsageError):
        sockrpc.connect("ws://127.0.0.1/", **options)


async def test_a_tls_context_for_a_plain_uri_is_a_usage_error() -> None:
    with pytest.raises(sockrpc.UsageError, match="wss"):
        sockrpc.connect("ws://127.0.0.1/", ssl=ssl.create_default_context())


@pytest.mark.parametrize(
    "options", [{"headers": {"X": "a\r\nY: b"}}, {"origin": "http://a\r\nX: b"}], ids=str
)
async def test_a_header_that_would_break_the_request_is_a_usage_error(options: dict[str, Any]) -> None:
    async with RawServer() as server, asyncio.timeout(PATIENCE):
        with pytest.raises(sockrpc.UsageError):
            await sockrpc.connect(server.uri, **options)


async def test_what_the_opening_request_holds() -> None:
    async with RawServer() as server:
        uri = f"ws://us%40er:pass@127.0.0.1:{server.port}/some/path?a=b&c=%20"
        options = {"headers": [("X-One", "1"), ("X-Two", "2")], "origin": "https://app.example"}
        connecting = asyncio.ensure_future(open_client(uri, options))
        peer = await server.accept()
        client = await peer.wait(connecting)
        assert peer.request_line == "GET /some/path?a=b&c=%20 HTTP/1.1"
        assert peer.fields["host"] == f"127.0.0.1:{server.port}"
        assert peer.fields["origin"] == "https://app.example"
        assert (peer.fields["x-one"], peer.fields["x-two"]) == ("1", "2")
        assert base64.b64decode(peer.fields["authorization"].removeprefix("Basic ")) == b"us@er:pass"
        assert peer.fields["sec-websocket-version"] == "13"
        assert peer.fields["sec-websocket-protocol"] == "sockrpc.v1, websocket.io-rpc-v0.1"
        assert len(base64.b64decode(peer.fields["sec-websocket-key"])) == 16
        assert "sec-websocket-extensions" not in peer.fields
        await peer.finish()
        await client.wait_closed()


async def test_without_an_origin_none_is_sent_and_the_path_is_never_empty() -> None:
    async with RawServer() as server:
        connecting = asyncio.ensure_future(open_client(f"ws://127.0.0.1:{server.port}", {}))
        peer = await server.accept()
        client = await peer.wait(connecting)
        assert peer.request_line == "GET / HTTP/1.1"
        assert "origin" not in peer.fields
        await peer.finish()
        await client.wait_closed()


async def test_connect_may_be_awaited_or_entered() -> None:
    async with serving(sockrpc.App()) as here:
        client = await here.connect()
        assert client.status() == ([], [])
        await client.close()
        async with here.connect():
            await until(lambda: here.server.statistics().connections == 1)
        await until(lambda: not working(here.server))


async def test_a_socket_that_is_for_no_stream_is_a_usage_error() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as line, pytest.raises(sockrpc.UsageError, match="stream"):
        sockrpc.connect("ws://127.0.0.1/", sock=line)


async def test_a_connect_object_is_entered_once_at_a_time_and_as_often_as_one_likes() -> None:
    async with serving(Work().app()) as here, asyncio.timeout(PATIENCE):
        connecting = here.connect()
        for _ in range(2):
            async with connecting as client:
                with pytest.raises(sockrpc.UsageError, match="entered already"):
                    await connecting.__aenter__()
                other = await connecting
                assert await client.call("echo", b"x") == await other.call("echo", b"x")
                await other.close()
                assert await client.call("echo", b"x") == b"x"
            await until(lambda: not here.server.connections)
        # Also while the first is still on its way, and after it has failed.
        first, second = await asyncio.gather(
            connecting.__aenter__(), connecting.__aenter__(), return_exceptions=True
        )
        assert isinstance(first, sockrpc.Client)
        assert isinstance(second, sockrpc.UsageError)
        await connecting.__aexit__(None, None, None)
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            await connecting.__aenter__()
