"""TLS: whom the client trusts, and what a server makes of those who do not speak it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any

import pytest

import sockrpc
import sockrpc.dial.reconnecting
from tests.kit.http_peer import line_to
from tests.kit.inside import working
from tests.kit.raw_server import RawServer
from tests.kit.support import PATIENCE, opening, serving, until
from tests.kit.tls import client_context, server_context
from tests.kit.work import Work


def secure(uri: str) -> str:
    return uri.replace("ws:", "wss:")


async def test_an_authority_that_is_not_trusted_is_an_error_of_the_certificate() -> None:
    async with serving(Work().app(), ssl=server_context()) as here:
        with pytest.raises(ssl.SSLCertVerificationError):
            await sockrpc.connect(secure(here.uri))
        async with sockrpc.connect(secure(here.uri), ssl=client_context()) as client:
            assert await client.call("echo", b"x") == b"x"


async def test_server_hostname_is_verified_instead_of_the_host_of_the_uri() -> None:
    async with serving(Work().app(), ssl=server_context("example.test")) as here:
        uri = secure(here.uri)
        with pytest.raises(ssl.SSLCertVerificationError):
            await sockrpc.connect(uri, ssl=client_context())
        with pytest.raises(ssl.SSLCertVerificationError):
            await sockrpc.connect(uri, ssl=client_context(), server_hostname="other.test")
        async with sockrpc.connect(uri, ssl=client_context(), server_hostname="example.test") as client:
            assert await client.call("echo", b"x") == b"x"


async def test_a_context_that_verifies_nothing_is_the_caller_s_choice() -> None:
    context = client_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    async with (
        serving(Work().app(), ssl=server_context("example.test")) as here,
        sockrpc.connect(secure(here.uri), ssl=context) as client,
    ):
        assert await client.call("echo", b"x") == b"x"


async def test_reconnecting_raises_an_error_of_the_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockrpc.dial.reconnecting, "FIRST_DELAY", 0.001)

    async def reconnect(uri: str) -> None:
        async for _ in sockrpc.connect(uri):
            raise AssertionError

    async with serving(Work().app(), ssl=server_context()) as here, asyncio.timeout(PATIENCE):
        with pytest.raises(ssl.SSLCertVerificationError):
            await reconnect(secure(here.uri))


async def test_a_server_that_does_not_speak_tls_is_an_error() -> None:
    # The first message of TLS holds no blank line: only the time-out tells that no request comes.
    async with serving(Work().app(), handshake_timeout=0.2) as here, asyncio.timeout(PATIENCE):
        with pytest.raises((ssl.SSLError, ConnectionError, sockrpc.ConnectionLost)):
            await sockrpc.connect(secure(here.uri), ssl=client_context())
        await until(lambda: not working(here.server))


async def test_a_server_that_speaks_tls_only_is_an_error() -> None:
    async with serving(Work().app(), ssl=server_context()) as here, asyncio.timeout(PATIENCE):
        with pytest.raises((sockrpc.HandshakeError, sockrpc.ConnectionLost, ConnectionError)):
            await here.connect()


async def refuse_the_certificate(port: int) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        await sockrpc.connect(f"wss://127.0.0.1:{port}/")


async def speak_plainly(port: int) -> None:
    async with line_to(port) as (reader, writer):
        writer.write(opening())
        await reader.read()


async def say_nothing(port: int) -> None:
    async with line_to(port):
        pass


@pytest.mark.parametrize("attempt", [refuse_the_certificate, speak_plainly, say_nothing])
async def test_a_tls_handshake_that_fails_leaves_nothing(attempt: Any) -> None:
    there = Work()
    async with serving(there.app(), ssl=server_context(), max_connections=1) as here:
        for _ in range(3):
            await attempt(here.port)
        await until(lambda: not working(here.server), patience=2)
        async with sockrpc.connect(secure(here.uri), ssl=client_context()) as client:
            assert await client.call("echo", b"x") == b"x"


async def test_handshake_timeout_ends_a_tls_handshake_that_does_not_come() -> None:
    loop = asyncio.get_running_loop()
    async with (
        serving(Work().app(), ssl=server_context(), handshake_timeout=0.2) as here,
        asyncio.timeout(PATIENCE),
        line_to(here.port) as (reader, _),
    ):
        began = loop.time()
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        # Its time begins when it is accepted, a moment before.
        assert loop.time() - began >= 0.15


async def test_handshake_timeout_ends_a_request_that_does_not_come_over_tls() -> None:
    async with serving(Work().app(), ssl=server_context(), handshake_timeout=0.2) as here:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port, ssl=client_context())
        writer.write(b"GET / HT")
        async with asyncio.timeout(PATIENCE):
            assert await reader.read() == b""
        writer.close()
        await until(lambda: not working(here.server))


async def test_close_timeout_ends_a_client_that_does_not_answer_the_close_frame_over_tls() -> None:
    async with serving(Work().app(), ssl=server_context(), close_timeout=0.2) as here:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port, ssl=client_context())
        writer.write(opening())
        await reader.readuntil(b"\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            await here.only_socket().close(1000, "bye")
        await until(lambda: not working(here.server))
        writer.close()


async def test_open_timeout_is_for_the_tls_handshake_as_well() -> None:
    async with RawServer() as server:
        with pytest.raises(TimeoutError):
            await sockrpc.connect(secure(server.uri), ssl=client_context(), open_timeout=0.2)
