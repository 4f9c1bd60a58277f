"""`process_request`: the application's word on every HTTP request, before anything else."""

from __future__ import annotations

import asyncio
import http
from typing import Any

import pytest
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

import sockrpc
from tests.kit.http_peer import ask, ask_to_open, line_to
from tests.kit.inside import working
from tests.kit.support import PATIENCE, cut, opening, request, serving, until

Hook = Any


def response(status: int, body: bytes = b"", **fields: str) -> Response:
    return Response(status, http.HTTPStatus(status).phrase, Headers(fields), body)


def made(coroutine: bool, hook: Hook) -> Hook:
    """The hook as it is, or as a coroutine function that has waited before it answers."""
    if not coroutine:
        return hook

    async def waiting(socket: sockrpc.Socket, request: Request) -> Response | None:
        await asyncio.sleep(0)
        result: Response | None = hook(socket, request)
        return result

    return waiting


def echoing() -> sockrpc.App:
    app = sockrpc.App()
    app.method("echo")(lambda call: call.payload)
    return app


both = pytest.mark.parametrize("coroutine", [False, True], ids=["plain", "coroutine"])


@both
async def test_none_goes_on(coroutine: bool) -> None:
    seen: list[tuple[str, str, str | None]] = []

    def hook(socket: sockrpc.Socket, request: Request) -> None:
        seen.append((request.method, request.path, request.headers.get("X-Token")))
        assert socket.remote_address[0] == "127.0.0.1"
        assert socket.request is request
        assert socket.subprotocol is None

    async with serving(echoing(), process_request=made(coroutine, hook)) as here:
        async with sockrpc.connect(here.uri + "?a=b", headers={"X-Token": "t"}) as client:
            assert await client.call("echo", b"x") == b"x"
        answer = await ask(here.port, b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.status == 426
    assert seen == [("GET", "/socket?a=b", "t"), ("GET", "/page", None)]


@both
async def test_a_response_is_sent_instead(coroutine: bool) -> None:
    def hook(socket: sockrpc.Socket, request: Request) -> Response | None:
        if request.path == "/health":
            return response(200, b"fine\n", **{"Content-Type": "text/plain"})
        return None

    async with serving(echoing(), path="/socket", process_request=made(coroutine, hook)) as here:
        answer = await ask(here.port, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (answer.status, answer.body) == (200, b"fine\n")
        assert answer.fields["content-type"] == "text/plain"
        assert "date" in answer.fields
        # Also where the request wants to open a WebSocket.
        assert (await ask(here.port, opening("/health"))).status == 200
        head = await ask(here.port, b"HEAD /health HTTP/1.0\r\n\r\n")
        assert (head.status, head.fields["content-length"], head.body) == (200, "5", b"")
        assert (await ask(here.port, b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n")).status == 404
        async with here.connect() as client:
            assert await client.call("echo", b"x") == b"x"


@both
@pytest.mark.parametrize("status", [401, 403, 429])
async def test_it_may_refuse(coroutine: bool, status: int) -> None:
    def hook(socket: sockrpc.Socket, request: Request) -> Response | None:
        if request.headers.get("Authorization") != "Bearer good":
            return response(status, b"who are you?", **{"WWW-Authenticate": "Bearer"})
        return None

    async with serving(echoing(), process_request=made(coroutine, hook)) as here:
        with pytest.raises(sockrpc.HandshakeError, match="who are you") as raised:
            await here.connect()
        assert raised.value.status == status
        answer = await ask(here.port, opening())
        assert answer.fields["www-authenticate"] == "Bearer"
        async with here.connect(headers={"Authorization": "Bearer good"}) as client:
            assert await client.call("echo", b"x") == b"x"
        await until(lambda: not working(here.server))


@both
async def test_what_it_raises_is_logged_and_not_told(
    coroutine: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def hook(socket: sockrpc.Socket, request: Request) -> None:
        raise ValueError("the secret")

    async with serving(echoing(), process_request=made(coroutine, hook)) as here:
        answer = await ask(here.port, opening())
        assert answer.status == 500
        assert b"secret" not in answer.body
        assert "secret" not in str(answer.fields)
    assert "the secret" in caplog.text


@both
async def test_a_header_that_came_twice_and_is_looked_up_as_if_once_is_a_bad_request(
    coroutine: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def hook(socket: sockrpc.Socket, request: Request) -> None:
        request.headers.get("Cookie")

    async with serving(echoing(), process_request=made(coroutine, hook)) as here:
        # Whoever does it again and again fills no log.
        for _ in range(3):
            answer = await ask(here.port, opening(Cookie="a=1\r\ncookie: b=2"))
            assert (answer.status, answer.body) == (400, b"The header Cookie came more than once.\n")
        async with here.connect(headers={"Cookie": "a=1"}) as client:
            assert await client.call("echo", b"x") == b"x"
    assert caplog.messages == ["refused: The header Cookie came more than once."]
    assert caplog.records[0].exc_info is None


@both
async def test_the_same_error_of_other_headers_is_a_failure_of_the_hook(
    coroutine: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def hook(socket: sockrpc.Socket, request: Request) -> None:
        Headers([("Cookie", "a=1"), ("Cookie", "b=2")])["Cookie"]

    async with serving(echoing(), process_request=made(coroutine, hook)) as here:
        assert (await ask(here.port, opening(Cookie="a=1"))).status == 500
    assert "MultipleValuesError" in caplog.text


@both
async def test_a_cancelled_error_of_its_own_is_a_failure_and_answered_at_once(
    coroutine: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def hook(socket: sockrpc.Socket, request: Request) -> None:
        # As by awaiting a task that somebody else has cancelled.
        raise asyncio.CancelledError

    async with serving(echoing(), process_request=made(coroutine, hook)) as here:
        assert (await ask(here.port, opening())).status == 500
    assert "process_request" in caplog.text


@both
@pytest.mark.parametrize("value", [True, "go away"], ids=repr)
async def test_a_value_that_is_no_response_is_a_failure_of_the_hook(
    coroutine: bool, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(echoing(), process_request=made(coroutine, lambda socket, request: value)) as here:
        assert (await ask(here.port, opening())).status == 500
    assert "process_request" in caplog.text


@both
async def test_the_state_that_it_sets_is_there_for_hooks_and_handlers(coroutine: bool) -> None:
    app = sockrpc.App()
    seen: list[str] = []
    app.on_connect(lambda socket: seen.append(socket.state.user))
    app.on_disconnect(lambda socket: seen.append(socket.state.user))
    app.method("who")(lambda call: call.socket.state.user)

    def hook(socket: sockrpc.Socket, request: Request) -> None:
        socket.state.user = request.headers["X-User"]

    async with serving(app, process_request=made(coroutine, hook)) as here:
        async with (
            here.connect(headers={"X-User": "ada"}) as ada,
            here.connect(headers=[("X-User", "bob")]) as bob,
        ):
            assert await ada.call("who") == b"ada"
            assert await bob.call("who") == b"bob"
        await until(lambda: len(seen) == 4)
    assert sorted(seen) == ["ada", "ada", "bob", "bob"]


async def test_it_comes_before_the_path_the_version_and_the_origin() -> None:
    async with serving(
        echoing(), path="/socket", process_request=lambda socket, request: response(418, b"teapot")
    ) as here:
        for data in (
            opening("/elsewhere"),
            opening(Sec_WebSocket_Version="8"),
            opening(Origin="https://evil.example"),
            opening().replace(b"GET", b"POST"),
        ):
            assert (await ask(here.port, data)).status == 418


class Pending:
    """A hook that waits until it may go on."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.may_go_on = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self, socket: sockrpc.Socket, request: Request) -> None:
        self.begun.set()
        try:
            await self.may_go_on.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


async def test_frames_that_come_while_it_waits_are_kept() -> None:
    hook = Pending()
    async with serving(echoing(), process_request=hook) as here, line_to(here.port) as (reader, writer):
        writer.write(opening() + request(1, "echo", b"one"))
        await hook.begun.wait()
        writer.write(request(2, "echo", b"two"))
        # Far more than the kernel's buffers hold is not needed: it only has to arrive later.
        writer.write(request(3, "echo", b"3" * 100_000)[:50])
        for _ in range(5):
            await asyncio.sleep(0)
        hook.may_go_on.set()
        async with asyncio.timeout(PATIENCE):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            assert await reader.readexactly(10) == b"\x82\x08\x04\x00\x00\x00\x01one"
            assert await reader.readexactly(10) == b"\x82\x08\x04\x00\x00\x00\x02two"


async def test_other_connections_are_served_while_it_waits() -> None:
    hook = Pending()

    async def only_slow(socket: sockrpc.Socket, request: Request) -> None:
        if request.path == "/slow":
            await hook(socket, request)

    async with serving(echoing(), process_request=only_slow) as here, line_to(here.port) as (_, writer):
        writer.write(opening("/slow"))
        await hook.begun.wait()
        async with here.connect() as client:
            assert await client.call("echo", b"x") == b"x"
        assert not hook.cancelled.is_set()


@pytest.mark.parametrize("how", ["end of file", "reset"])
async def test_a_connection_that_is_lost_while_it_waits_cancels_it(how: str) -> None:
    hook = Pending()
    async with serving(echoing(), process_request=hook, handshake_timeout=60.0) as here:
        async with line_to(here.port) as (_, writer):
            writer.write(opening())
            await hook.begun.wait()
            if how == "reset":
                cut(writer)
        async with asyncio.timeout(PATIENCE / 2):
            await hook.cancelled.wait()
        await until(lambda: not working(here.server))


async def test_handshake_timeout_cancels_it() -> None:
    hook = Pending()
    async with serving(echoing(), process_request=hook, handshake_timeout=0.1) as here:
        async with line_to(here.port) as (reader, writer), asyncio.timeout(PATIENCE):
            writer.write(opening())
            assert await reader.read() == b""
            await hook.cancelled.wait()
        await until(lambda: not working(here.server))


async def test_stopping_the_server_does_not_wait_for_it_for_ever() -> None:
    hook = Pending()
    async with (
        serving(echoing(), process_request=hook, stop_grace=0.1) as here,
        line_to(here.port) as (_, writer),
        asyncio.timeout(PATIENCE),
    ):
        writer.write(opening())
        await hook.begun.wait()
        here.server.close()
        await here.server.wait_closed()
    assert hook.cancelled.is_set()


async def test_a_connection_it_lets_in_while_the_server_stops_is_closed_with_1001() -> None:
    hook = Pending()
    async with (
        serving(echoing(), process_request=hook, close_timeout=0.2) as here,
        line_to(here.port) as (reader, writer),
    ):
        writer.write(opening() + request(1, "echo"))
        await hook.begun.wait()
        here.server.close()
        hook.may_go_on.set()
        async with asyncio.timeout(PATIENCE):
            data = await reader.read()
        # No new call starts: neither an answer nor anything else precedes the end.
        _, _, frames = data.partition(b"\r\n\r\n")
        assert b"\x82" not in frames
        if frames:
            assert frames[:4] == b"\x88\x11\x03\xe9"


async def test_it_runs_for_each_request_of_a_refused_client_anew() -> None:
    seen: list[int] = []

    def hook(socket: sockrpc.Socket, request: Request) -> Response | None:
        seen.append(len(seen))
        return response(503) if len(seen) < 3 else None

    async with serving(echoing(), process_request=hook) as here:
        statuses = [(await ask_to_open(here.port, opening())).status for _ in range(3)]
    assert statuses == [503, 503, 101]
