"""What an HTTP request asks for, in each form and spelling of RFC 9112 section 3.2, and its Host."""

from __future__ import annotations

import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.datastructures import Headers
from websockets.http11 import Request

import sockrpc
from sockrpc.websocket.uris import check_path, normal_path, read_target
from tests.kit.http_peer import Answer, ask, ask_to_open
from tests.kit.support import opening, serving

pytestmark = pytest.mark.newest


async def answer_to(target: str, path: str | None = "/socket", **headers: str) -> Answer:
    async with serving(sockrpc.App(), path=path) as here:
        return await ask_to_open(here.port, opening(target, **headers))


async def seen_by_process_request(data: bytes) -> list[tuple[str, list[str]]]:
    seen: list[tuple[str, list[str]]] = []

    def look(socket: sockrpc.Socket, request: Request) -> None:
        assert socket.request is request
        seen.append((request.path, request.headers.get_all("Host")))

    async with serving(sockrpc.App(), process_request=look) as here:
        answer = await ask_to_open(here.port, data)
    if answer.status == 400:
        assert seen == []
    return seen


# The absolute form


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("http://127.0.0.1/socket", "/socket"),
        ("ws://localhost:3000/socket?x=1", "/socket?x=1"),
        ("https://example.org/socket?", "/socket?"),
        ("WSS://EXAMPLE.org/%73ocket", "/socket"),
        ("http://[::1]:3000/socket?a=http://b/", "/socket?a=http://b/"),
    ],
)
async def test_the_absolute_form_asks_for_its_path(target: str, path: str) -> None:
    assert (await answer_to(target)).status == 101
    assert [each for each, _ in await seen_by_process_request(opening(target))] == [path]


@pytest.mark.parametrize(
    ("target", "path"),
    [("http://example.org", "/"), ("ws://example.org?x=1", "/?x=1"), ("ws://example.org//x", "//x")],
)
async def test_the_absolute_form_without_a_path_asks_for_the_root(target: str, path: str) -> None:
    assert [each for each, _ in await seen_by_process_request(opening(target))] == [path]


async def test_the_host_of_the_absolute_form_stands_in_place_of_the_header() -> None:
    data = opening("http://one.example:8080/socket", host="two.example")
    assert await seen_by_process_request(data) == [("/socket", ["one.example:8080"])]
    # So it is what the Origin is compared with.
    here = "http://one.example/socket"
    assert (await answer_to(here, host="two.example", Origin="https://one.example")).status == 101
    assert (await answer_to(here, host="two.example", Origin="https://two.example")).status == 403


def test_the_other_headers_stay_as_they_were_and_in_their_order() -> None:
    headers = Headers([("A", "1"), ("host", "two"), ("a", "2"), ("B", "caf\xe9")])
    request = Request("http://one/", headers)
    assert read_target(request) is None
    assert list(request.headers.raw_items()) == [("A", "1"), ("host", "one"), ("a", "2"), ("B", "caf\xe9")]


async def test_a_request_of_http_1_0_in_the_absolute_form_needs_no_host() -> None:
    data = b"GET http://one.example/page HTTP/1.0\r\n\r\n"
    assert await seen_by_process_request(data) == [("/page", ["one.example"])]


# What is no request target


@pytest.mark.parametrize(
    "target",
    [
        "socket",
        "?x=1",
        "*",
        "localhost:3000",
        "ftp://localhost/socket",
        "http:/socket",
        "http:///socket",
        "http://?x=1",
        "http://:3000/socket",
        "http://user@localhost/socket",
        "http://user:password@localhost/socket",
        "http://lo cal/socket",
        "http://[::1/socket",
        "http://[1]/socket",
        "http://localhost:x/socket",
        "http://localhost:65536/socket",
        "http://localhost\\@evil.example/socket",
        "/socket#fragment",
        "/socket?x=1#fragment",
        "http://localhost/socket#fragment",
        "/socket\t",
        "/soc\x01ket",
        "/socket\x7f",
        "/socket?a\x0bb",
        "",
    ],
)
async def test_anything_else_is_a_bad_request(target: str) -> None:
    for path in ("/socket", None):
        assert (await answer_to(target, path)).status == 400
    assert await seen_by_process_request(opening(target)) == []


async def test_the_forms_of_other_methods_are_theirs_alone() -> None:
    async with serving(sockrpc.App()) as here:
        for line in ("OPTIONS *", "OPTIONS /", "CONNECT example.org:443", "POST http://example.org/"):
            answer = await ask(here.port, f"{line} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert answer.status == 405, line
        for line in ("POST *", "CONNECT /", "CONNECT ", "CONNECT http://example.org/", "OPTIONS x:1"):
            answer = await ask(here.port, f"{line} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert answer.status == 400, line


# Spellings


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/socket", "/%73ocket"),
        ("/socket", "/%73%6F%63%6b%65%74?x"),
        ("/größe", "/gr%C3%B6%C3%9Fe"),
        ("/größe", "/gr%c3%b6%c3%9fe"),
        ("/gr%c3%b6%C3%9fe", "/%67r%C3%B6%C3%9Fe"),
        ("/a b", "/a%20b"),
        ("/a%20b", "/a%20b"),
        ("/a%2fb", "/a%2Fb"),
        ("/100%", "/100%25"),
        ("/100%25", "/100%"),
        ("/~user/-._", "/%7euser/%2D%2E%5F"),
        ("/a[b]|{c}^`\\", "/a%5Bb%5D%7C%7Bc%7D%5E%60%5C"),
        ("/a[b]|{c}^`\\", "/a[b]|{c}^`\\"),
        ("/:@!$&'()*+,;=", "/:@!$&'()*+,;="),
    ],
)
async def test_equivalent_spellings_are_one_path(path: str, target: str) -> None:
    assert (await answer_to(target, path)).status == 101


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/socket", "/%2573ocket"),
        ("/socket", "/SOCKET"),
        ("/a/b", "/a%2Fb"),
        ("/a%2Fb", "/a/b"),
        ("/a:b", "/a%3Ab"),
        ("/größe", "/gr%F6%DFe"),
        ("/socket", "//socket"),
        ("/socket", "//127.0.0.1/socket"),
        ("/socket", "/./socket"),
        ("/socket", "/x/../socket"),
        ("/socket", "/socket%00"),
    ],
)
async def test_other_paths_are_other_paths(path: str, target: str) -> None:
    assert (await answer_to(target, path)).status == 404


async def test_process_request_sees_the_path_in_the_spelling_that_is_compared() -> None:
    # Else one that guards "/socket" could be passed by with an escape.
    for target in ("/%73ocket?a=%73", "http://127.0.0.1/sock%65t?a=%73"):
        assert await seen_by_process_request(opening(target)) == [("/socket?a=%73", ["127.0.0.1"])]


async def test_a_program_that_splits_the_target_as_a_url_is_not_made_to_fail() -> None:
    for target in ("//[/socket", "//[::1/socket", "/[", "//]", "//a[b]c/"):
        ((path, _),) = await seen_by_process_request(opening(target))
        urllib.parse.urlsplit(path)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_the_normal_spelling_is_one_ascii_and_means_the_same(text: str) -> None:
    found = normal_path(text)
    assert normal_path(found) == found
    assert found.isascii()
    assert urllib.parse.unquote_to_bytes(found) == urllib.parse.unquote_to_bytes(text)
    assert not set(found) & set(' "<>[]\\^`{|}?#')


@pytest.mark.parametrize("path", ["", "socket", "ws://localhost/socket", " /socket", 7, b"/socket"])
def test_a_path_without_its_slash_is_a_usage_error(path: str) -> None:
    with pytest.raises(sockrpc.UsageError, match="begins with a slash"):
        sockrpc.serve(sockrpc.App(), "127.0.0.1", 0, path=path)


@pytest.mark.parametrize("path", ["/socket?x=1", "/socket#part"])
def test_a_path_that_no_request_could_have_is_a_usage_error(path: str) -> None:
    with pytest.raises(sockrpc.UsageError, match="query"):
        sockrpc.serve(sockrpc.App(), "127.0.0.1", 0, path=path)
    with pytest.raises(sockrpc.UsageError, match="UTF-8"):
        check_path("/\udc80")


# Host


@pytest.mark.parametrize("protocol", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize("count", [0, 1, 2, 3])
async def test_a_request_has_one_host(protocol: str, count: int) -> None:
    async with serving(sockrpc.App()) as here:
        hosts = "Host: 127.0.0.1\r\n" * count
        answer = await ask(here.port, f"GET /page {protocol}\r\n{hosts}\r\n".encode())
    # HTTP/1.0 is as old as names that are no addresses.
    good = count == 1 or (count == 0 and protocol == "HTTP/1.0")
    assert answer.status == (400 if not good else 505 if protocol == "HTTP/1.0" else 426)
    assert good == (b"one Host header" not in answer.body)


async def test_also_a_request_to_open_and_one_in_the_absolute_form() -> None:
    for target in ("/socket", "http://127.0.0.1/socket"):
        assert (await answer_to(target, host="")).status == 400
        assert (await answer_to(target, host="127.0.0.1\r\nHost: 127.0.0.1")).status == 400
        assert (await answer_to(target, host="a b")).status == 400


@pytest.mark.parametrize(
    "host",
    [
        "a b",
        "a/b",
        "a?b",
        "a#b",
        "a\\b",
        "user@a",
        "http://a",
        "a:b",
        "a:1:2",
        "a:-1",
        "a:65536",
        "a:000080",
        "::1",
        "[::1",
        "::1]",
        "[]",
        "[::g]",
        "[1.2.3.4]",
        "[::1]a",
        "%",
        "a%2",
        "gr\xf6\xdfe",
        "a<b",
        '"a"',
    ],
)
async def test_a_host_that_is_not_valid_is_a_bad_request(host: str) -> None:
    assert (await answer_to("/socket", host=host)).status == 400


@pytest.mark.parametrize(
    "host",
    [
        " ",
        "a",
        "A.Example.:3000",
        "a:",
        "a:0",
        "a:65535",
        "a_b",
        "a%20b",
        "xn--grsse-kua.example",
        "192.0.2.1:80",
        "[::1]",
        "[2001:DB8::1]:3000",
        "[fe80::1%25eth0]:80",
        "[::ffff:192.0.2.1]",
    ],
)
async def test_a_valid_host_is_let_in(host: str) -> None:
    assert (await answer_to("/socket", host=host)).status == 101
