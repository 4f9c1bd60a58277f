"""Requests with a body, and other versions of HTTP: what is true is answered, and the answer arrives."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
from typing import Any

import pytest
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

import sockrpc
from sockrpc.listen.admission import MAX_UNREAD_BYTES
from sockrpc.websocket.bodies import Framed, Refusal, take_framing
from tests.kit.http_peer import Answer, ask, line_to, parse_answer
from tests.kit.inside import attached, has_ended, working
from tests.kit.support import PATIENCE, PING, PONG, frame, opening, serving, until
from tests.kit.tls import client_context, server_context

pytestmark = pytest.mark.newest

HEAD = "POST /hook HTTP/1.1\r\nHost: 127.0.0.1\r\n"
# What the loop's one receive buffer holds.
RECEIVE_BYTES = 256 * 1024
CHUNKED = "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"

secure = pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])


def tls(secure: bool) -> dict[str, Any]:
    return {"ssl": server_context()} if secure else {}


def post(port: int, size: int, secure: bool) -> tuple[int, bytes]:
    """What an ordinary client sees, which sends all of its request before it reads anything."""
    line: http.client.HTTPConnection
    if secure:
        line = http.client.HTTPSConnection("127.0.0.1", port, timeout=PATIENCE, context=client_context())
    else:
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    with contextlib.closing(line):
        line.request("POST", "/hook", bytes(size))
        response = line.getresponse()
        return response.status, response.read()


@secure
@pytest.mark.parametrize("size", [1, 5_000_000, MAX_UNREAD_BYTES])
async def test_the_answer_arrives_although_nobody_wants_the_body(size: int, secure: bool) -> None:
    async with serving(sockrpc.App(), **tls(secure)) as here:
        for _ in range(3):
            status, body = await asyncio.to_thread(post, here.port, size, secure)
            assert (status, b"POST" in body) == (405, True)
        await until(lambda: not working(here.server))


@secure
async def test_process_request_decides_and_sees_what_the_request_says_of_its_body(secure: bool) -> None:
    seen: list[str | None] = []

    def hook(socket: sockrpc.Socket, request: Request) -> Response:
        seen.extend((request.method, request.headers.get("Content-Length")))
        return Response(202, "Accepted", Headers(), b"thanks")

    async with serving(sockrpc.App(), process_request=hook, **tls(secure)) as here:
        assert await asyncio.to_thread(post, here.port, 5_000_000, secure) == (202, b"thanks")
    assert seen == ["POST", "5000000"]


async def test_a_large_body_does_not_overtake_the_refusal_of_a_full_server() -> None:
    async with serving(sockrpc.App(), max_connections=1) as here, here.connect():
        status, _ = await asyncio.to_thread(post, here.port, 5_000_000, False)
        assert status == 503


async def test_a_body_that_comes_while_process_request_waits_is_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    may_go_on = asyncio.Event()
    begun = asyncio.Event()

    async def hook(socket: sockrpc.Socket, request: Request) -> Response | None:
        begun.set()
        await may_go_on.wait()
        raise LookupError

    async with (
        serving(sockrpc.App(), process_request=hook, max_handshake_bytes=1000) as here,
        line_to(here.port) as (reader, writer),
    ):
        writer.write(HEAD.encode() + b"Content-Length: 1000000\r\n\r\n")
        await begun.wait()
        writer.write(bytes(1_000_000))
        (connection,) = working(here.server)
        await until(lambda: not connection.transport.is_reading())
        may_go_on.set()
        async with asyncio.timeout(PATIENCE):
            assert parse_answer(await reader.read()).status == 500
    assert "process_request failed" in caplog.text


async def test_what_a_peer_sends_while_process_request_waits_is_bounded() -> None:
    may_go_on, begun = asyncio.Event(), asyncio.Event()
    pings = 100_000

    async def hook(socket: sockrpc.Socket, request: Request) -> None:
        begun.set()
        await may_go_on.wait()

    async with (
        serving(sockrpc.App(), process_request=hook, max_handshake_bytes=1000) as here,
        line_to(here.port) as (reader, writer),
    ):
        writer.write(opening())
        await begun.wait()
        (connection,) = working(here.server)
        writer.write(frame(PING, b"x") * pings)
        await until(lambda: not connection.transport.is_reading())
        for _ in range(50):
            await asyncio.sleep(0)
        # One read was under way when the limit was passed, and is the last.
        received = connection.service.counters()["bytes_received"]
        assert 1000 < received <= 1000 + 2 * RECEIVE_BYTES
        may_go_on.set()
        async with asyncio.timeout(PATIENCE):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            # All of it is read and answered then.
            await reader.readexactly(pings * len(frame(PONG, b"x", masked=False)))


@pytest.mark.parametrize(
    ("request_", "status", "word"),
    [
        (HEAD + "Content-Length: 3\r\n\r\nabc", 405, b"POST"),
        (HEAD + CHUNKED, 405, b"POST"),
        (HEAD.replace("POST", "OPTIONS") + "\r\n", 405, b"OPTIONS"),
        (HEAD + "Expect: 100-continue\r\nContent-Length: 3\r\n\r\n", 405, b"POST"),
        (HEAD.replace("HTTP/1.1", "HTTP/1.0") + "Content-Length: 3\r\n\r\nabc", 405, b"POST"),
        (HEAD.replace("POST", "GET") + "Content-Length: 3\r\n\r\nabc", 426, b"WebSocket"),
        (opening().decode()[:-2] + "Content-Length: 3\r\n\r\nabc", 413, b"no body"),
        (opening().decode()[:-2] + CHUNKED, 413, b"no body"),
        (HEAD + "Transfer-Encoding: gzip, chunked\r\n\r\n", 501, b"chunked only"),
        (HEAD + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 501, b"chunked only"),
        (HEAD + "Content-Length: 3\r\n" + CHUNKED, 400, b"or"),
        (HEAD.replace("HTTP/1.1", "HTTP/1.0") + CHUNKED, 400, b"HTTP/1.1 on"),
        *(
            (HEAD + f"Content-Length: {value}\r\n\r\n", 400, b"not one number")
            for value in (
                "",
                "-1",
                "+1",
                "1 1",
                "0x10",
                "1_0",
                "\u00b2",
                "3, 4",
                "3\r\nContent-Length: 4",
                "9" * 40,
            )
        ),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\0" * 9, 505, b"HTTP/1.1"),
        ("GET /socket HTTP/2.0\r\n\r\n", 505, b"HTTP/1.1"),
        ("GET /socket HTTP/1.2\r\n\r\n", 505, b"HTTP/1.1"),
        ("GET /socket HTTP/0.9\r\n\r\n", 505, b"HTTP/1.1"),
    ],
)
async def test_each_gets_the_status_and_the_words_that_are_true(
    request_: str, status: int, word: bytes
) -> None:
    async with serving(sockrpc.App()) as here:
        answer = await ask(here.port, request_.encode("latin-1"))
        assert (answer.status, word in answer.body) == (status, True), answer


@pytest.mark.parametrize("value", ["0", "00", "0, 0", "0\r\ncontent-length: 0"])
async def test_a_body_of_no_bytes_is_none(value: str) -> None:
    data = opening()[:-2] + f"CONTENT-Length:\t{value} \r\n\r\n".encode()
    async with serving(sockrpc.App()) as here, line_to(here.port) as (reader, writer):
        writer.write(data)
        async with asyncio.timeout(PATIENCE):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(("method", "announced"), [("HEAD", 3), ("HEAD", 0), ("POST", 3)])
async def test_only_head_is_answered_without_a_body_of_ours(method: str, announced: int) -> None:
    data = HEAD.replace("POST", method) + f"Content-Length: {announced}\r\n\r\n" + "x" * announced
    async with serving(sockrpc.App()) as here:
        answer = await ask(here.port, data.encode())
        assert (answer.status, answer.body == b"") == (405, method == "HEAD")


# What is not read is bounded, in time and in bytes


async def answer_and_state(port: int, head: str) -> tuple[Answer, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode())
    async with asyncio.timeout(PATIENCE):
        # The server has ended its own output; the line is still there.
        return parse_answer(await reader.read()), writer


async def test_a_body_that_never_comes_is_awaited_for_close_timeout() -> None:
    loop = asyncio.get_running_loop()
    async with serving(sockrpc.App(), close_timeout=0.3) as here:
        began = loop.time()
        answer, writer = await answer_and_state(here.port, HEAD + "Content-Length: 10\r\n\r\n")
        assert answer.status == 405
        assert attached(here.server) == 1, "it counts as long as it is awaited"
        await until(lambda: not working(here.server))
        assert 0.3 <= loop.time() - began < PATIENCE / 2
        assert attached(here.server) == 0
        writer.close()


async def test_a_large_answer_ends_when_it_has_left_though_the_body_never_comes() -> None:
    # More than the systems at both ends take.
    body = bytes(16 * 1024 * 1024)

    def hook(socket: sockrpc.Socket, request: Request) -> Response:
        return Response(200, "OK", Headers(), body)

    async with (
        serving(sockrpc.App(), process_request=hook, close_timeout=60.0) as here,
        line_to(here.port) as (reader, writer),
    ):
        writer.write(HEAD.encode() + b"Content-Length: 10\r\n\r\n")
        await until(lambda: working(here.server))
        (connection,) = working(here.server)
        await until(lambda: has_ended(connection))
        assert connection.transport.get_write_buffer_size() > 0
        async with asyncio.timeout(PATIENCE):
            answer = await reader.read()
        assert answer.endswith(body)
        assert working(here.server), "the body is still awaited"


async def test_a_body_without_end_is_read_for_so_many_bytes_and_no_more() -> None:
    async with serving(sockrpc.App(), close_timeout=60.0) as here:
        answer, writer = await answer_and_state(here.port, HEAD + "Transfer-Encoding: chunked\r\n\r\n")
        assert answer.status == 405
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE):
                while working(here.server):
                    writer.write(bytes(100_000))
                    await writer.drain()
        assert not working(here.server)
        # The last read may be a full one.
        received = here.server.statistics().bytes_received
        assert MAX_UNREAD_BYTES <= received <= MAX_UNREAD_BYTES + 256 * 1024 + 1024
        writer.close()


async def test_a_body_that_came_to_its_end_is_not_awaited_any_longer() -> None:
    async with serving(sockrpc.App(), close_timeout=60.0) as here:
        _, writer = await answer_and_state(here.port, HEAD + "Content-Length: 10\r\n\r\n12345")
        assert working(here.server)
        writer.write(b"67890")
        await until(lambda: not working(here.server))
        writer.close()


async def test_a_peer_that_was_refused_unread_has_a_second_and_not_all_of_handshake_timeout() -> None:
    loop = asyncio.get_running_loop()
    options = {"max_connections": 1, "handshake_timeout": 60.0, "close_timeout": 60.0}
    async with serving(sockrpc.App(), **options) as here, here.connect():
        began = loop.time()
        answer, writer = await answer_and_state(here.port, "")
        assert answer.status == 503
        assert attached(here.server) == 1, "it keeps nobody out"
        await until(lambda: len(working(here.server)) == 1)
        # Two sweeps find it; the longest time between two is a second.
        assert 0.9 <= loop.time() - began < 4.0
        writer.close()


# The framing itself


def test_what_frames_a_body_is_taken_out_and_given_back() -> None:
    head = b"POST / HTTP/1.1\r\nA: b\r\ncontent-LENGTH: 7\r\nC: d\r\n\r\n"
    framed = take_framing(head)
    assert isinstance(framed, Framed)
    assert framed.head == b"POST / HTTP/1.1\r\nA: b\r\nC: d\r\n\r\n"
    assert framed.size == 7
    request = Request("/", Headers([("A", "b")]))
    framed.restore(request)
    assert list(request.headers.raw_items()) == [("A", "b"), ("content-LENGTH", "7")]


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /?Content-Length:3 HTTP/1.1\r\nX-Content-Length: 3\r\n\r\n",
        b"\r\n\r\n",
        b"no line at all",
    ],
)
def test_what_has_no_body_is_left_as_it_is(head: bytes) -> None:
    assert take_framing(head) == Framed(head, [], 0)


def test_a_name_that_is_no_name_is_left_to_the_parser_to_refuse() -> None:
    head = b"GET / HTTP/1.1\r\nContent-Length : 3\r\n\r\n"
    assert take_framing(head) == Framed(head, [], 0)
    assert isinstance(take_framing(head.replace(b" :", b":")), Framed)
    assert not isinstance(take_framing(head.replace(b" :", b":")), Refusal)
