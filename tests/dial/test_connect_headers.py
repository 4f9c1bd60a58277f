"""The headers of the opening request: ours, and what the caller may put in their place."""

from __future__ import annotations

import asyncio
import re
import sys
from typing import Any

import pytest

import sockrpc
from tests.kit.raw_server import Peer, RawServer, open_client

pytestmark = pytest.mark.outside


async def asked_with(uri: str = "ws://127.0.0.1:{port}/", **options: Any) -> Peer:
    """The opening request, as a server reads it."""
    async with RawServer() as server:
        connecting = asyncio.ensure_future(open_client(uri.format(port=server.port), options))
        peer = await server.accept()
        client = await peer.wait(connecting)
        await peer.finish()
        await client.wait_closed()
        return peer


async def test_the_client_says_what_it_is() -> None:
    peer = await asked_with()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert peer.fields["user-agent"] == f"Python/{version} sockrpc/{sockrpc.__version__}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("User-Agent", "mine/1.0"),
        ("user-agent", "mine/1.0"),
        ("HOST", "other.example:8080"),
        ("Origin", "https://app.example"),
        ("Authorization", "Bearer token"),
        ("X-Other", "\xe9\xff"),
    ],
)
async def test_a_header_that_is_given_replaces_ours(name: str, value: str) -> None:
    peer = await asked_with("ws://us:er@127.0.0.1:{port}/", headers={name: value})
    assert peer.fields[name.lower()] == value.encode("latin-1").decode(errors="replace")
    assert sum(each.lower() == name.lower() for each in peer.names) == 1


async def test_others_are_sent_in_their_order_as_often_as_they_are_given() -> None:
    headers = [("X-A", " 1 "), ("X-B", "2"), ("X-A", "3")]
    peer = await asked_with(headers=headers)
    assert peer.names[-3:] == ["X-A", "X-B", "X-A"]
    assert peer.names[0] == "Host"


@pytest.mark.parametrize(
    "name",
    [
        "Upgrade",
        "connection",
        "Sec-WebSocket-Key",
        "sec-websocket-protocol",
        "Sec-WebSocket-Version",
        "Sec-WebSocket-Extensions",
        "Sec-WebSocket-Anything",
        "Content-Length",
        "Transfer-Encoding",
    ],
)
def test_what_the_handshake_is_made_of_can_not_be_given(name: str) -> None:
    with pytest.raises(sockrpc.UsageError, match=f"{name} is chosen by the opening handshake"):
        sockrpc.connect("ws://localhost/", headers={name: "x"})


@pytest.mark.parametrize("name", ["Host", "User-Agent", "Origin", "Authorization"])
def test_what_may_be_there_once_is_refused_twice(name: str) -> None:
    with pytest.raises(sockrpc.UsageError, match=re.compile(f"{name} is given twice", re.IGNORECASE)):
        sockrpc.connect("ws://localhost/", headers=[(name, "a"), (name.lower(), "b")])


def test_an_origin_is_given_in_one_way() -> None:
    with pytest.raises(sockrpc.UsageError, match="Origin is given twice"):
        sockrpc.connect("ws://localhost/", headers={"Origin": "http://a"}, origin="http://a")


@pytest.mark.parametrize("header", [("X", 1), (b"X", "y"), ("X", None)], ids=str)
def test_what_is_no_text_is_refused(header: Any) -> None:
    with pytest.raises(sockrpc.UsageError, match="are str"):
        sockrpc.connect("ws://localhost/", headers=[header])
