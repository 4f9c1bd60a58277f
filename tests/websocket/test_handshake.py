"""The opening handshake of the server: who is let in, and what the others are told."""

from __future__ import annotations

import asyncio

import pytest

import sockrpc
from tests.kit.http_peer import Answer, ask, ask_to_open, line_to, parse_answer
from tests.kit.inside import working
from tests.kit.support import DELIVERIES, PATIENCE, SUBPROTOCOL, deliver, opening, request, serving, until
from tests.kit.work import Work

pytestmark = pytest.mark.outside

PAGE = b"GET /socket HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


async def answer_to(data: bytes, **options: object) -> Answer:
    async with serving(sockrpc.App(), **options) as here:
        answer = await ask_to_open(here.port, data)
        await until(lambda: not working(here.server))
        assert here.server.statistics().connections == 0
        return answer


async def test_a_good_request_is_answered_as_the_rfc_has_it() -> None:
    answer = await answer_to(opening())
    assert answer.status == 101
    # RFC 6455 1.3: the answer to the key that `opening` sends.
    assert answer.fields["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert answer.fields["upgrade"].lower() == "websocket"
    assert answer.fields["connection"].lower() == "upgrade"
    assert answer.fields["sec-websocket-protocol"] == SUBPROTOCOL


async def test_names_and_tokens_of_the_request_are_compared_without_regard_to_case() -> None:
    data = opening(Upgrade="", Connection="", UPGRADE="WebSocket", connection="keep-alive, upgrade")
    assert (await answer_to(data)).status == 101


async def test_extensions_that_are_offered_are_not_confirmed() -> None:
    answer = await answer_to(opening(Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits"))
    assert answer.status == 101
    assert "sec-websocket-extensions" not in answer.fields


@pytest.mark.parametrize("offered", ["", "chat", "chat, graphql-ws", SUBPROTOCOL.upper(), SUBPROTOCOL[:-1]])
async def test_without_a_subprotocol_that_is_spoken_the_refusal_lists_those_that_are(offered: str) -> None:
    answer = await answer_to(opening(Sec_WebSocket_Protocol=offered))
    assert answer.status == 400
    assert SUBPROTOCOL.encode() in answer.body
    assert answer.fields["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    "offered",
    [f"chat, {SUBPROTOCOL}", f"{SUBPROTOCOL},chat", f"chat\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}"],
)
async def test_of_several_subprotocols_exactly_ours_is_confirmed(offered: str) -> None:
    answer = await answer_to(opening(Sec_WebSocket_Protocol=offered))
    assert answer.status == 101
    assert answer.fields["sec-websocket-protocol"] == SUBPROTOCOL


@pytest.mark.parametrize(
    "version",
    [
        "0",
        "8",
        "12",
        "14",
        "013",
        "13, 8",
        "8\r\nSec-WebSocket-Version: 13",
        "13\r\nSec-WebSocket-Version: 8",
        "x",
    ],
)
async def test_another_version_is_told_ours(version: str) -> None:
    answer = await answer_to(opening(Sec_WebSocket_Version=version))
    assert answer.status == 426
    assert answer.fields["sec-websocket-version"] == "13"


@pytest.mark.parametrize(
    "key", ["", "c2hvcnQ=", "not base64 !", "dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key: x"]
)
async def test_a_bad_key_is_a_bad_request(key: str) -> None:
    assert (await answer_to(opening(Sec_WebSocket_Key=key))).status == 400


async def test_an_opening_request_without_a_version_is_a_bad_request() -> None:
    assert (await answer_to(opening(Sec_WebSocket_Version=""))).status == 400


@pytest.mark.parametrize("path", ["/socket", "/socket?", "/socket?token=1", "/socket?/other"])
async def test_the_path_is_compared_without_the_query(path: str) -> None:
    assert (await answer_to(opening(path), path="/socket")).status == 101


@pytest.mark.parametrize("path", ["/", "/socket/", "/Socket", "/sock", "/other?/socket", "/socket%20"])
async def test_a_wrong_path_is_not_found(path: str) -> None:
    assert (await answer_to(opening(path), path="/socket")).status == 404
    assert (await answer_to(PAGE.replace(b"/socket", path.encode()), path="/socket")).status == 404


@pytest.mark.parametrize("path", ["/", "/any/where?x=1", "//any"])
async def test_without_a_configured_path_every_path_is_an_endpoint(path: str) -> None:
    assert (await answer_to(opening(path))).status == 101


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD", "get"])
@pytest.mark.parametrize("data", [opening(), PAGE], ids=["opening", "page"])
async def test_only_get_is_allowed(method: str, data: bytes) -> None:
    answer = await answer_to(data.replace(b"GET", method.encode(), 1))
    assert answer.status == 405
    assert answer.fields["allow"] == "GET"
    assert (answer.body == b"") == (method == "HEAD")


async def test_a_page_request_to_the_endpoint_is_told_to_upgrade() -> None:
    answer = await answer_to(PAGE)
    assert answer.status == 426
    assert answer.fields["upgrade"].lower() == "websocket"


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n",
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /socket\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"GET /socket HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /socket HTTP/1.1\r\nspace : x\r\n\r\n",
        b"GET /socket HTTP/1.1\r\nX: a\x00b\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_a_bad_request(data: bytes) -> None:
    assert (await answer_to(data)).status == 400


async def test_http_1_0_can_not_be_upgraded() -> None:
    assert (await answer_to(opening().replace(b"HTTP/1.1", b"HTTP/1.0"))).status == 505


@pytest.mark.parametrize("how", DELIVERIES)
async def test_the_request_may_come_in_pieces_with_frames_behind_it(how: str) -> None:
    app = sockrpc.App()
    app.method("echo")(lambda call: call.payload)
    async with serving(app) as here, line_to(here.port) as (reader, writer):
        peer = Pieces(writer)
        await deliver(peer, opening() + request(1, "echo", b"hi") + request(2, "echo", b"ho"), how)
        async with asyncio.timeout(PATIENCE):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            assert await reader.readexactly(9) == b"\x82\x07\x04\x00\x00\x00\x01hi"
            assert await reader.readexactly(9) == b"\x82\x07\x04\x00\x00\x00\x02ho"


class Pieces:
    """What `deliver` writes to."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()


@pytest.mark.parametrize("size", [1, 65_000, 300_000])
async def test_a_frame_in_the_segment_of_the_request_is_served_whatever_its_size(size: int) -> None:
    app = sockrpc.App()
    app.method("echo")(lambda call: call.payload)
    payload = bytes(range(256)) * (size // 256 + 1)
    # The limit is for the request, not for what follows it.
    limit = len(opening())
    then = request(1, "echo", payload)
    async with serving(app, max_handshake_bytes=limit) as here, await here.raw(then=then) as raw:
        assert await raw.answer() == (1, payload)


async def test_a_request_as_large_as_max_handshake_bytes_is_accepted_and_one_more_byte_is_not() -> None:
    data = opening()
    more = opening().replace(b"Host: ", b"Host:  ")
    assert len(more) == len(data) + 1
    assert (await answer_to(data, max_handshake_bytes=len(data))).status == 101
    answer = await answer_to(more, max_handshake_bytes=len(data))
    assert answer.status == 431
    assert str(len(data)).encode() in answer.body


async def test_a_request_without_an_end_is_refused_at_the_limit() -> None:
    async with (
        serving(sockrpc.App(), max_handshake_bytes=1000) as here,
        line_to(here.port) as (reader, writer),
    ):
        writer.write(b"GET / HTTP/1.1\r\nX: ".ljust(1001, b"x"))
        async with asyncio.timeout(PATIENCE):
            assert parse_answer(await reader.read()).status == 431


@pytest.mark.parametrize("data", [b"", b"GET /sock", opening()[:-1]])
async def test_handshake_timeout_ends_a_request_that_does_not_come(data: bytes) -> None:
    loop = asyncio.get_running_loop()
    async with serving(sockrpc.App(), handshake_timeout=0.2) as here, line_to(here.port) as (reader, writer):
        began = loop.time()
        writer.write(data)
        async with asyncio.timeout(PATIENCE):
            assert await reader.read() == b""
        assert loop.time() - began > 0.19
        assert not working(here.server)


async def test_handshake_timeout_is_for_the_whole_request_however_steadily_it_comes() -> None:
    async with serving(sockrpc.App(), handshake_timeout=0.2) as here, line_to(here.port) as (_, writer):
        writer.write(b"GET / HTTP/1.1\r\n")
        await until(lambda: working(here.server))

        def trickle() -> bool:
            if not writer.is_closing():
                writer.write(b"x")
            return not working(here.server)

        await until(trickle)


async def test_handshake_timeout_does_not_touch_an_open_connection() -> None:
    async with serving(sockrpc.App(), handshake_timeout=0.05) as here, await here.raw() as raw:
        await asyncio.sleep(0.3)
        await raw.synchronize()


@pytest.mark.parametrize("data", [b"", b"GET /sock", opening()[:-1]])
async def test_a_connection_that_is_lost_in_the_handshake_leaves_nothing(data: bytes) -> None:
    async with serving(sockrpc.App()) as here:
        async with line_to(here.port) as (_, writer):
            writer.write(data)
            await until(lambda: working(here.server))
        await until(lambda: not working(here.server))
        assert here.server.statistics().connections == 0


async def test_a_connection_that_is_lost_right_behind_its_request_leaves_nothing() -> None:
    there = Work()
    async with serving(there.app()) as here:
        async with line_to(here.port) as (_, writer):
            writer.write(opening() + request(1, "work"))
        await until(lambda: here.server.statistics().calls_lost == 1)
        await until(lambda: not working(here.server))


async def test_max_connections_refuses_one_more_and_recovers() -> None:
    app = sockrpc.App()
    app.method("echo")(lambda call: call.payload)
    async with serving(app, max_connections=2) as here, await here.raw() as first:
        async with await here.raw():
            answer = await ask(here.port, opening())
            assert answer.status == 503
            with pytest.raises(sockrpc.HandshakeError) as raised:
                await here.connect()
            assert raised.value.status == 503
            await first.synchronize()
        await until(lambda: here.server.statistics().connections == 1)
        async with here.connect() as client:
            assert await client.call("echo", b"x") == b"x"
            assert (await ask(here.port, opening())).status == 503


async def test_refusals_for_max_connections_are_told_in_the_log_but_not_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(sockrpc.App(), max_connections=1) as here, await here.raw():
        for _ in range(3):
            assert (await ask(here.port, opening())).status == 503
    # Once a minute: a flood of connections is not to become a flood of lines.
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "max_connections" in caplog.text


async def test_a_connection_that_is_still_in_its_handshake_counts() -> None:
    async with serving(sockrpc.App(), max_connections=1) as here:
        async with line_to(here.port):
            await until(lambda: working(here.server))
            assert (await ask(here.port, opening())).status == 503
        await until(lambda: not working(here.server))
        assert (await ask_to_open(here.port, opening())).status == 101
