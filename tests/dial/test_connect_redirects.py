"""Redirects: which are followed, where to, and what goes along."""

from __future__ import annotations

import asyncio
import base64
import socket
from typing import Any

import pytest

import sockrpc
from tests.kit.raw_server import Peer, RawServer, open_client
from tests.kit.support import PATIENCE, serving
from tests.kit.tls import client_context, server_context
from tests.kit.work import Work

pytestmark = pytest.mark.outside

SECRETS = [
    ("Authorization", "Bearer x"),
    ("Cookie", "id=x"),
    ("Proxy-Authorization", "Basic x"),
    ("Host", "other"),
]


async def send_on(server: RawServer, location: str, status: int = 301) -> Peer:
    """Answer the next connection with a redirect."""
    peer = await server.peer()
    await peer.read_head()
    # Its length is never reached: where a redirect points stands in its head.
    await peer.send(
        f"HTTP/1.1 {status} Elsewhere\r\nLocation: {location}\r\nContent-Length: 9\r\n\r\n".encode()
    )
    return peer


async def refusal_after(location: str, **options: Any) -> sockrpc.HandshakeError:
    async with RawServer() as server:
        connecting = asyncio.ensure_future(open_client(server.uri, options))
        await send_on(server, location.format(port=server.port))
        with pytest.raises(sockrpc.HandshakeError) as raised:
            async with asyncio.timeout(PATIENCE):
                await connecting
        assert server.accepted.empty(), "it was followed"
        return raised.value


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed(status: int) -> None:
    async with RawServer() as server, serving(Work().app()) as here:
        connecting = asyncio.ensure_future(open_client(server.uri, {}))
        await send_on(server, here.uri, status)
        async with asyncio.timeout(PATIENCE), await connecting as client:
            assert await client.call("echo", b"x") == b"x"


@pytest.mark.parametrize(
    ("location", "line"),
    [
        ("/other/", "GET /other/ HTTP/1.1"),
        ("other?a=b", "GET /some/other?a=b HTTP/1.1"),
        ("?a=b", "GET /some/path?a=b HTTP/1.1"),
        ("//127.0.0.1:{port}", "GET / HTTP/1.1"),
        ("ws://127.0.0.1:{port}/x#fragment", "GET /x HTTP/1.1"),
        ("http://127.0.0.1:{port}/x", "GET /x HTTP/1.1"),
    ],
)
async def test_a_location_is_read_as_http_has_it(location: str, line: str) -> None:
    async with RawServer() as server:
        uri = f"ws://127.0.0.1:{server.port}/some/path?q=1"
        connecting = asyncio.ensure_future(open_client(uri, {}))
        await send_on(server, location.format(port=server.port))
        peer = await server.accept()
        assert peer.request_line == line
        client = await peer.wait(connecting)
        await peer.finish()
        await client.wait_closed()


async def test_credentials_go_to_the_same_origin_only() -> None:
    async with RawServer() as here, RawServer() as there:
        uri = f"ws://user:pass@127.0.0.1:{here.port}/"
        options = {"headers": [*SECRETS[1:], ("X-Other", "y")], "origin": "http://a"}
        connecting = asyncio.ensure_future(open_client(uri, options))
        await send_on(here, "/two")
        peer = await send_on(here, f"ws://127.0.0.1:{there.port}/")
        assert base64.b64decode(peer.fields["authorization"].removeprefix("Basic ")) == b"user:pass"
        assert (peer.fields["cookie"], peer.fields["host"]) == ("id=x", "other")
        # Also not when that sends it back.
        peer = await send_on(there, f"ws://127.0.0.1:{here.port}/back")
        back = await here.accept()
        for each in (peer, back):
            assert not {"authorization", "cookie", "proxy-authorization"} & set(each.fields)
            assert (each.fields["x-other"], each.fields["origin"]) == ("y", "http://a")
        assert peer.fields["host"] == f"127.0.0.1:{there.port}"
        client = await back.wait(connecting)
        await back.finish()
        await client.wait_closed()


async def test_a_header_of_credentials_does_not_go_to_another_origin() -> None:
    async with RawServer() as here, RawServer() as there:
        connecting = asyncio.ensure_future(open_client(here.uri, {"headers": dict(SECRETS)}))
        peer = await send_on(here, there.uri)
        assert peer.fields["authorization"] == "Bearer x"
        peer = await there.accept()
        assert not {"authorization", "cookie", "proxy-authorization"} & set(peer.fields)
        client = await peer.wait(connecting)
        await peer.finish()
        await client.wait_closed()


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("ftp://127.0.0.1/", "ftp is no scheme"),
        ("http://:80/", "hostname"),
        ("http://[::1/", "not followed"),
        ("http://127.0.0.1:99999/", "not followed"),
    ],
)
async def test_what_can_not_be_followed_says_where_it_points(location: str, why: str) -> None:
    error = await refusal_after(location)
    assert (error.status, error.location) == (301, location)
    assert repr(location) in str(error)
    assert why in str(error)


async def test_a_status_that_is_no_redirect_is_none() -> None:
    async with RawServer() as server:
        for answer in (b"300 Choose\r\nLocation: /x", b"301 Moved", b"304 Same\r\nLocation: /x"):
            connecting = asyncio.ensure_future(open_client(server.uri, {}))
            peer = await server.peer()
            await peer.read_head()
            await peer.send(b"HTTP/1.1 " + answer + b"\r\nContent-Length: 0\r\n\r\n")
            with pytest.raises(sockrpc.HandshakeError) as raised:
                await peer.wait(connecting)
            assert raised.value.status == int(answer[:3])
            assert raised.value.location is None


async def test_ten_redirects_are_followed_and_no_more() -> None:
    for count in (10, 11):
        async with RawServer() as server:
            connecting = asyncio.ensure_future(open_client(server.uri, {}))
            for n in range(count):
                await send_on(server, f"/{n}")
            if count == 10:
                peer = await server.accept()
                client = await peer.wait(connecting)
                await peer.finish()
                await client.wait_closed()
                continue
            with pytest.raises(sockrpc.HandshakeError, match=r"'/10'.*10 redirects") as raised:
                async with asyncio.timeout(PATIENCE):
                    await connecting
            assert raised.value.status == 301


async def test_never_from_wss_to_ws_though_from_ws_to_wss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sockrpc.dial.tls._MADE", [client_context()])
    async with RawServer() as plain, serving(Work().app(), ssl=server_context()) as here:
        connecting = asyncio.ensure_future(open_client(plain.uri, {}))
        await send_on(plain, here.uri.replace("ws:", "https:"))
        async with asyncio.timeout(PATIENCE), await connecting as client:
            assert await client.call("echo", b"x") == b"x"

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 307 Down\r\nLocation: {plain.uri}\r\n\r\n".encode())
        writer.close()

    async with RawServer() as plain:
        server = await asyncio.start_server(redirect, "127.0.0.1", 0, ssl=server_context())
        try:
            with pytest.raises(sockrpc.HandshakeError, match="from wss to ws") as raised:
                await sockrpc.connect(f"wss://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
            assert (raised.value.status, raised.value.location) == (307, plain.uri)
            assert plain.accepted.empty()
        finally:
            server.close()


async def test_a_server_name_that_was_given_is_for_its_own_origin_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sockrpc.dial.tls._MADE", [client_context()])
    async with (
        RawServer() as away,
        serving(Work().app(), ssl=server_context("example.test")) as here,
        asyncio.timeout(PATIENCE),
    ):
        connecting = asyncio.ensure_future(open_client(away.uri, {"server_hostname": "example.test"}))
        await send_on(away, here.uri.replace("ws:", "wss:"))
        with pytest.raises(OSError, match="certificate"):
            await connecting


async def test_a_socket_that_was_given_binds_to_its_server() -> None:
    async with RawServer() as server:
        line = socket.create_connection(("127.0.0.1", server.port))
        connecting = asyncio.ensure_future(open_client(server.uri, {"sock": line}))
        await send_on(server, "/there")
        with pytest.raises(sockrpc.HandshakeError, match="used up") as raised:
            async with asyncio.timeout(PATIENCE):
                await connecting
        assert raised.value.location == "/there"


async def test_open_timeout_is_for_all_redirects_together() -> None:
    async with RawServer() as server, asyncio.timeout(PATIENCE):
        connecting = asyncio.ensure_future(open_client(server.uri, {"open_timeout": 0.3}))
        await send_on(server, "/secret")
        await server.peer()
        with pytest.raises(TimeoutError, match=r"no connection to ws://127.0.0.1:\d+/secret within 0.3 s"):
            await connecting
