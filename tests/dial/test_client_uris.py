"""The URIs that a client takes: what is sent for them, and which are refused before anything is."""

from __future__ import annotations

from typing import Any

import pytest

import sockrpc
from sockrpc.websocket.uris import read_uri
from tests.kit.support import serving

pytestmark = pytest.mark.outside


def target(uri: str) -> str:
    return read_uri(uri).resource_name


@pytest.mark.parametrize(
    ("end", "sent"),
    [
        ("", "/"),
        ("?a=b", "/?a=b"),
        ("/a%20b", "/a%20b"),
        ("/a%2fb?c=%2f", "/a%2fb?c=%2f"),
        ("/größe?ä=ö", "/gr%C3%B6%C3%9Fe?%C3%A4=%C3%B6"),
        # The escapes beside what has to be escaped are kept.
        ("/ö%20b?c=%2f&d=ö", "/%C3%B6%20b?c=%2f&d=%C3%B6"),
        ('/a"<>\\^`{|}', "/a%22%3C%3E%5C%5E%60%7B%7C%7D"),
        ("/a[b]?c[]=1&d={e}", "/a[b]?c[]=1&d=%7Be%7D"),
        ("/100%", "/100%"),
        ("//a//b", "//a//b"),
        ("/\u3000\u2028", "/%E3%80%80%E2%80%A8"),
    ],
)
async def test_what_may_not_stand_in_a_uri_is_escaped(end: str, sent: str) -> None:
    assert target(f"ws://127.0.0.1{end}") == sent
    async with serving(sockrpc.App()) as here, sockrpc.connect(f"ws://127.0.0.1:{here.port}{end}"):
        opened = here.only_socket().request
        assert opened is not None
        assert opened.path.partition("?")[2] == sent.partition("?")[2]


def test_hosts_ports_and_users_are_read() -> None:
    found = read_uri("wss://üser:pä%20ss@Größe.example:8443/x")
    assert (found.secure, found.host, found.port) == (True, "xn--grsse-kua.example", 8443)
    assert found.user_info == ("üser", "pä ss")
    assert read_uri("ws://[2001:DB8::1]").host == "2001:db8::1"
    assert read_uri("ws://a.example.").port == 80
    assert read_uri(f"ws://{'a' * 63}:80/").host == "a" * 63
    assert read_uri(f"ws://ö.{'a' * 63}:80/").host == f"xn--nda.{'a' * 63}"


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "localhost:3000",
        "http://localhost/",
        "ws:localhost",
        "ws:///socket",
        "ws://:3000/",
        "ws://localhost/#fragment",
        "ws://localhost:port/",
        "ws://localhost:65536/",
        "ws://localhost:0/",
        "ws://[::1/",
        "ws://[localhost]/",
        "ws://user@localhost/",
        "ws://%ff:x@localhost/",
        "ws://local{host}/",
        "ws://local\\host/",
        "ws://localhost/\ud800",
        "ws://a..example/",
        "ws://.example/",
        f"ws://{'a' * 64}.example/",
        f"ws://ö.{'a' * 64}/",
        f"ws://{'ö' * 64}/",
    ],
)
async def test_what_is_no_uri_of_a_server_is_a_usage_error(uri: str) -> None:
    with pytest.raises(sockrpc.UsageError) as raised:
        sockrpc.connect(uri)
    # It stands in the message once.
    shown = str(raised.value)
    assert not uri or shown.count(uri) <= 1


@pytest.mark.parametrize(
    "uri",
    ["ws://me:secret@h:99999/", "ws://me:secret@/", "ws://me:sec ret@h/", "http://me:secret@h/"],
)
async def test_a_complaint_about_a_uri_has_no_password_in_it(uri: str) -> None:
    with pytest.raises(sockrpc.UsageError) as raised:
        sockrpc.connect(uri)
    assert "sec" not in str(raised.value)
    assert "ecret" not in str(raised.value)


@pytest.mark.parametrize("wrong", [" ", "a b", "a\r\nX: y", "\n", "\t", "a\x00", "\x7f"])
async def test_a_blank_or_a_control_character_is_a_usage_error(wrong: str) -> None:
    for uri in (f"ws://localhost/{wrong}", f"{wrong}ws://localhost/", f"ws://localhost{wrong}/?x"):
        with pytest.raises(sockrpc.UsageError, match="%20"):
            sockrpc.connect(uri)


@pytest.mark.parametrize("name", ["", "a" * 64, "a..example", ".example"])
async def test_a_server_hostname_that_is_no_name_is_a_usage_error(name: str) -> None:
    with pytest.raises(sockrpc.UsageError, match="not the name of a host"):
        sockrpc.connect("wss://127.0.0.1/", server_hostname=name)


async def test_a_name_that_is_too_long_for_the_system_is_an_error_of_the_system() -> None:
    uri: Any = "ws://" + ".".join(["a" * 60] * 5) + "/"
    with pytest.raises(OSError):  # noqa: PT011
        await sockrpc.connect(uri)
