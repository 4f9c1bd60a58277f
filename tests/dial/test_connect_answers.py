"""What a server, or what stands before it, may answer: the status and the cause always reach the caller."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import sockrpc
import sockrpc.dial.client_opening
from sockrpc.dial.reconnecting import is_transient
from tests.dial.test_connect import error_after
from tests.kit.raw_server import RawServer, open_client
from tests.kit.support import PATIENCE, serving
from tests.kit.tls import authority, client_context, server_context
from tests.kit.work import Work

pytestmark = pytest.mark.outside

INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"


@pytest.mark.parametrize("interim", [INTERIM, b"HTTP/1.1 102 \r\n\r\n" * 20], ids=["two", "many"])
async def test_interim_answers_are_passed_over(interim: bytes) -> None:
    async with RawServer() as server:
        connecting = asyncio.ensure_future(open_client(server.uri, {}))
        peer = await server.peer()
        await peer.send(interim)
        await peer.shake_hands()
        client = await peer.wait(connecting)
        await peer.finish()
        await client.wait_closed()
    error = await error_after(interim + b"HTTP/1.1 403 No\r\nContent-Length: 3\r\n\r\nwhy")
    assert str(error) == "HTTP 403: why"


async def test_interim_answers_count_towards_the_limit() -> None:
    unfinished = INTERIM * 10 + b"HTTP/1.1 101 ".ljust(999, b"x")
    for answer in (INTERIM * 20, unfinished):
        error = await error_after(answer, max_handshake_bytes=1000)
        assert isinstance(error, sockrpc.HandshakeError)
        assert "larger than 1000 bytes" in str(error)


@pytest.mark.parametrize(
    "fields",
    [b"X: " + b"y" * 20_000 + b"\r\n", b"X: y\r\n" * 1_000, b"X: y\n" * 1_000],
    ids=["a long line", "many lines", "many lines without CR"],
)
@pytest.mark.parametrize("status", [101, 403])
async def test_max_handshake_bytes_is_the_only_limit_of_an_answer(fields: bytes, status: int) -> None:
    if status == 403:
        error = await error_after(b"HTTP/1.1 403 No\r\n" + fields + b"Content-Length: 3\r\n\r\nwhy")
        assert str(error) == "HTTP 403: why"
        return
    async with RawServer() as server:
        connecting = asyncio.ensure_future(open_client(server.uri, {}))
        peer = await server.peer()
        # The fields before those that `shake_hands` sends.
        real = peer.send

        async def send(head: bytes, then: bytes) -> None:
            await real(head.replace(b"\r\n", b"\r\n" + fields, 1), then)

        peer.send = send  # type: ignore[method-assign, assignment]
        await peer.shake_hands()
        client = await peer.wait(connecting)
        await peer.finish()
        await client.wait_closed()


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        (b"HTTP/1.0 404 Not Found\r\n\r\nthere is nothing", 404, "there is nothing"),
        (b"HTTP/1.1 403\r\nContent-Length: 0\r\n\r\n", 403, ""),
        (b"HTTP/1.1 999 Denied\r\nContent-Length: 0\r\n\r\n", 999, "Denied"),
        (b"HTTP/1.1 502 Bad Gateway\nContent-Length: 4\n\ndown", 502, "down"),
        (b"HTTP/1.1 503 Busy\r\nno colon\r\n\r\n", 503, None),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: x\r\n\r\n", 503, None),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 503, None),
        (b"HTTP/1.1 503 Busy\r\nX: y\r\n", 503, None),
        (INTERIM + b"HTTP/1.1 503 Busy\r\nno colon\r\n\r\n", 503, None),
        (b"HTTP/1.1 503 Busy\r\n", 503, None),
        (b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 503, "Busy"),
        (b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: gzip\r\n\r\nzz\r\n", 503, None),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 100\r\n\r\ncut off", 503, "cut off"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 99999999999\r\n\r\n" + b"x" * 2000, 503, "x" * 300),
        (b"HTTP/1.1 204 Empty\r\n\r\n", 204, "Empty"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", 200, "<html>"),
        (b"HTTP/1.1 503 Busy\r\nX: " + b"y" * 70_000, 503, None),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_the_status_of_an_odd_refusal_is_told(answer: bytes, status: int, reason: str | None) -> None:
    error = await error_after(answer, eof=True)
    assert isinstance(error, sockrpc.HandshakeError)
    assert error.status == status
    assert reason is None or error.reason == reason
    assert is_transient(error) == (status >= 500)


async def test_a_refusal_whose_body_does_not_end_is_told_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockrpc.dial.client_opening, "BODY_TIMEOUT", 0.1)
    error = await error_after(b"HTTP/1.1 403 No\r\n\r\nso far")
    assert str(error) == "HTTP 403: so far"


async def test_of_a_body_so_much_is_read_as_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockrpc.dial.client_opening, "BODY_TIMEOUT", 2 * PATIENCE)
    error = await error_after(b"HTTP/1.1 403 No\r\nContent-Length: 99999\r\n\r\n" + b"x" * 2000)
    assert str(error) == "HTTP 403: " + "x" * 300


async def test_what_is_no_answer_is_refused_without_waiting_for_its_end() -> None:
    for beginning in (b"SSH-2.0-OpenSSH_9.9\r\n", b"220 mail ESMTP\r\n", b"\x00"):
        error = await error_after(beginning)
        assert isinstance(error, sockrpc.HandshakeError)
        assert f"it begins with {beginning!r}" in str(error)
        assert error.status is None


async def test_a_port_of_tls_is_called_one() -> None:
    error = await error_after(b"\x15\x03\x01\x00\x02\x02\x46")
    assert "TLS" in str(error)
    assert "wss" in str(error)


# TLS


@contextlib.asynccontextmanager
async def openssl(context: ssl.SSLContext) -> AsyncIterator[str]:
    """The URI of a server that does TLS as most do: by OpenSSL at the socket itself, which sends alerts.

    asyncio drops what a failed handshake has to say.
    """

    def serve() -> None:
        while True:
            try:
                line, _ = listening.accept()
            except OSError:
                return
            line.settimeout(PATIENCE)
            with contextlib.suppress(OSError), line.dup() as raw:
                try:
                    with context.wrap_socket(line, server_side=True) as secure:
                        secure.recv(1)
                finally:
                    # Closing over what was not read sends a TCP reset, which may overtake the alert.
                    raw.shutdown(socket.SHUT_WR)
                    while raw.recv(4096):
                        pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"wss://127.0.0.1:{listening.getsockname()[1]}/"
        listening.shutdown(socket.SHUT_RDWR)
    await asyncio.to_thread(thread.join)


def demanding(version: ssl.TLSVersion) -> ssl.SSLContext:
    """For a server that demands a certificate of its clients."""
    context = server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = context.maximum_version = version
    authority().configure_trust(context)
    return context


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_certificate_that_the_server_demands_is_named_and_not_asked_for_twice(
    version: ssl.TLSVersion,
) -> None:
    async def reconnect(uri: str) -> None:
        async for _ in sockrpc.connect(uri, ssl=client_context()):
            raise AssertionError

    async with openssl(demanding(version)) as uri:
        async with asyncio.timeout(PATIENCE):
            with pytest.raises((ssl.SSLError, sockrpc.ConnectionLost)) as raised:
                await sockrpc.connect(uri, ssl=client_context())
            # In TLS 1.3 the client has finished its handshake when the server looks at its certificate.
            later = version == ssl.TLSVersion.TLSv1_3
            assert isinstance(raised.value, sockrpc.ConnectionLost if later else ssl.SSLError)
            assert isinstance(raised.value.__cause__ if later else raised.value, ssl.SSLError)
            assert "CERTIFICATE_REQUIRED" in str(raised.value) or "HANDSHAKE_FAILURE" in str(raised.value)
            with pytest.raises(type(raised.value)):
                await reconnect(uri)


async def test_a_certificate_that_the_server_demands_may_be_in_the_context() -> None:
    async with serving(Work().app(), ssl=demanding(ssl.TLSVersion.TLSv1_3)) as here:
        context = client_context()
        authority().issue_cert("client@example.test").configure_cert(context)
        async with sockrpc.connect(here.uri.replace("ws:", "wss:"), ssl=context) as client:
            assert await client.call("echo", b"x") == b"x"


async def test_no_version_in_common_is_named_and_stays() -> None:
    context = server_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    own = client_context()
    own.maximum_version = ssl.TLSVersion.TLSv1_2
    async with openssl(context) as uri:
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION") as raised:
            await sockrpc.connect(uri, ssl=own)
        assert not is_transient(raised.value)


async def test_a_line_that_breaks_in_the_tls_handshake_may_come_back() -> None:
    def finish(writer: asyncio.StreamWriter) -> None:
        writer.close()

    def cut(writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    for end in (finish, cut):
        assert is_transient(await broken_in_tls(end))


async def broken_in_tls(end: Callable[[asyncio.StreamWriter], None]) -> BaseException:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        end(writer)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        with pytest.raises((OSError, sockrpc.ConnectionLost)) as raised:
            await sockrpc.connect(
                f"wss://127.0.0.1:{server.sockets[0].getsockname()[1]}/", open_timeout=PATIENCE
            )
        return raised.value
    finally:
        server.close()


async def test_a_line_that_is_cut_says_so_in_the_cause() -> None:
    async with RawServer() as server:
        connecting = asyncio.ensure_future(open_client(server.uri, {}))
        peer = await server.peer()
        await peer.read_head()
        peer.reset_line()
        with pytest.raises(sockrpc.ConnectionLost, match=r"handshake: .*reset") as raised:
            await peer.wait(connecting)
        assert isinstance(raised.value.__cause__, ConnectionResetError)
        assert is_transient(raised.value)
        client, peer = await server.client()
        call = asyncio.ensure_future(client.call("x"))
        await peer.request()
        peer.reset_line()
        with pytest.raises(sockrpc.ConnectionLost) as lost:
            await call
        assert isinstance(lost.value.__cause__, ConnectionResetError)
        assert lost.value.__cause__.__traceback__ is None


@pytest.mark.parametrize("phase", ["tls", "http"])
async def test_a_time_out_says_where_and_after_how_long(phase: str) -> None:
    async with RawServer() as server:
        scheme = "wss" if phase == "tls" else "ws"
        uri = f"{scheme}://me:secret@127.0.0.1:{server.port}/socket?token=secret"
        options: dict[str, Any] = {"ssl": client_context()} if phase == "tls" else {}
        with pytest.raises(TimeoutError) as raised:
            await sockrpc.connect(uri, open_timeout=0.2, **options)
        where = f"{scheme}://127.0.0.1:{server.port}/socket"
        assert str(raised.value) == f"no connection to {where} within 0.2 s"
