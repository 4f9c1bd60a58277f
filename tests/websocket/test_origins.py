"""Which pages may open a WebSocket: those of the same host, and those that the application names."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Literal

import pytest

import sockrpc
from tests.kit.http_peer import Answer, ask_to_open
from tests.kit.support import opening, serving

pytestmark = pytest.mark.newest

Origins = Collection[str] | Literal["*"] | None


async def answer_to(origin: str, host: str = "127.0.0.1", origins: Origins = None) -> Answer:
    async with serving(sockrpc.App(), origins=origins) as here:
        return await ask_to_open(here.port, opening(host=host, Origin=origin))


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("example.org", "https://example.org"),
        ("example.org:3000", "http://example.org"),
        ("example.org", "http://example.org:8080"),
        ("example.org:3000", "http://example.org:8080"),
        ("Example.ORG", "https://example.org"),
        ("example.org", "HTTPS://EXAMPLE.org"),
        ("192.0.2.1:3000", "http://192.0.2.1"),
        ("[2001:db8::1]:3000", "http://[2001:db8::1]"),
        ("[2001:DB8::1]", "http://[2001:db8::1]:5000"),
    ],
)
async def test_the_same_host_is_let_in_whatever_the_port(host: str, origin: str) -> None:
    assert (await answer_to(origin, host)).status == 101


LOOPBACK = ["localhost", "127.0.0.1", "[::1]", "LocalHost"]


@pytest.mark.parametrize("host", LOOPBACK)
@pytest.mark.parametrize("page", LOOPBACK)
async def test_the_names_of_the_loopback_host_are_one(host: str, page: str) -> None:
    assert (await answer_to(f"http://{page}:5173", f"{host}:3000")).status == 101


async def test_a_client_that_sends_no_origin_is_let_in() -> None:
    assert (await answer_to("")).status == 101
    assert (await answer_to("", origins=["https://example.org"])).status == 101


@pytest.mark.parametrize("host", ["127.0.0.1", "example.org", "x"])
async def test_an_empty_origin_is_one_and_is_that_of_no_host(
    host: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(sockrpc.App()) as here:
        # `opening` leaves out what is empty.
        asked = opening(host=host, Origin="x").replace(b"Origin: x\r\n", b"Origin:\r\n")
        assert (await ask_to_open(here.port, asked)).status == 403


@pytest.mark.parametrize("origin", ["null", "nonsense", "file://", "http://", ""])
async def test_an_origin_without_a_host_is_not_that_of_a_host_without_a_name(
    origin: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(sockrpc.App()) as here:
        for host in ("", ":3000"):
            asked = opening(host="x", Origin="x").replace(b"Origin: x\r\n", f"Origin: {origin}\r\n".encode())
            answer = await ask_to_open(here.port, asked.replace(b"Host: x\r\n", f"Host: {host}\r\n".encode()))
            assert answer.status in (400, 403)


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:3000", "https://evil.example"),
        ("example.org", "https://evil.example"),
        ("example.org", "https://example.org.evil.example"),
        ("example.org", "https://sub.example.org"),
        ("sub.example.org", "https://example.org"),
        ("example.org", "http://localhost"),
        ("localhost", "http://example.org"),
        ("127.0.0.1", "http://127.0.0.2"),
        ("127.0.0.1", "null"),
        ("127.0.0.1", "file://"),
    ],
)
async def test_another_origin_is_refused_and_the_log_says_how_to_allow_it(
    host: str, origin: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await answer_to(origin, host)
    assert answer.status == 403
    assert origin.encode() in answer.body
    assert f"origins=[{origin!r}]" in caplog.text
    (record,) = caplog.records
    assert record.levelname == "WARNING"


@pytest.mark.parametrize(
    "origin",
    [
        "127.0.0.1",
        "https://evil.example/http://127.0.0.1",
        "https://127.0.0.1@evil.example",
        "http://[::1",
        "http://127.0.0.1, https://evil.example",
        "HTTPS://EVIL.example",
    ],
)
async def test_what_is_no_origin_is_refused_and_nobody_is_advised_to_allow_it(
    origin: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await answer_to(origin)
    assert answer.status == 403
    assert origin.encode() in answer.body
    assert origin in caplog.text
    assert "origins=" not in caplog.text


async def test_an_empty_host_is_that_of_no_page(caplog: pytest.LogCaptureFixture) -> None:
    # Valid by its form (RFC 9112 3.2), and a browser sends none.
    assert (await answer_to("http://127.0.0.1", " ")).status == 403


async def test_a_list_widens_what_is_let_in(caplog: pytest.LogCaptureFixture) -> None:
    origins = ["https://app.example", "http://other.example:8080", "null"]
    for origin in [*origins, "http://127.0.0.1", ""]:
        assert (await answer_to(origin, origins=origins)).status == 101
    for origin in (
        "http://app.example",
        "https://app.example:444",
        "http://other.example",
        "https://evil.example",
    ):
        assert (await answer_to(origin, origins=origins)).status == 403
    assert "https://evil.example" in caplog.text


@pytest.mark.parametrize("origins", [set(), (), frozenset({"https://app.example"})], ids=repr)
async def test_any_collection_will_do(origins: Origins, caplog: pytest.LogCaptureFixture) -> None:
    assert (await answer_to("http://127.0.0.1", origins=origins)).status == 101
    assert (await answer_to("https://evil.example", origins=origins)).status == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "nonsense", ""])
async def test_a_star_lets_all_in(origin: str) -> None:
    assert (await answer_to(origin, origins="*")).status == 101


@pytest.mark.parametrize("origins", [None, "*", ["http://127.0.0.1", "http://localhost"]])
async def test_two_origins_are_refused(origins: Origins, caplog: pytest.LogCaptureFixture) -> None:
    answer = await answer_to("http://127.0.0.1\r\nOrigin: http://localhost", origins=origins)
    assert answer.status in (400, 403)


async def test_two_hosts_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    answer = await answer_to("http://127.0.0.1", "127.0.0.1\r\nHost: evil.example")
    assert answer.status in (400, 403)


def serve_with(origins: Any) -> None:
    sockrpc.serve(sockrpc.App(), "127.0.0.1", 0, origins=origins)


def test_a_single_origin_instead_of_a_collection_is_a_usage_error() -> None:
    with pytest.raises(sockrpc.UsageError, match=r"such as \['https://app.example'\]"):
        serve_with("https://app.example")


@pytest.mark.parametrize("origins", [7, iter(["https://app.example"])], ids=["a number", "an iterator"])
def test_what_is_no_collection_is_a_usage_error(origins: object) -> None:
    with pytest.raises(sockrpc.UsageError, match="collection of origins"):
        serve_with(origins)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("https://app.example/", "https://app.example"),
        ("https://app.example/page?x#y", "https://app.example"),
        ("HTTPS://App.Example", "https://app.example"),
        (" https://app.example", "https://app.example"),
        ("https://app.example:443", "https://app.example"),
        ("http://app.example:80/", "http://app.example"),
        ("wss://app.example", "https://app.example"),
        ("ws://app.example:3000/socket", "http://app.example:3000"),
        ("https://user:pass@app.example", "https://app.example"),
        ("https://größe.example", "https://xn--grsse-kua.example"),
        ("http://[2001:DB8:0::1]:3000", "http://[2001:db8::1]:3000"),
        ("NULL", "null"),
        ("file:///home/page.html", "file://"),
    ],
)
def test_an_origin_that_no_browser_sends_is_refused_with_the_right_form(wrong: str, right: str) -> None:
    with pytest.raises(sockrpc.UsageError, match=f"write {re.escape(repr(right))}"):
        serve_with([wrong])
    serve_with([right])


@pytest.mark.parametrize(
    "wrong",
    [
        "app.example",
        "app.example:443",
        "localhost:3000",
        "//app.example",
        "https://",
        "https:///page",
        "https:app.example",
        "http://[::1",
        "http://[app]",
        "http://app.example:x",
        "http://app.example:70000",
        "1ttp://app.example",
        "",
    ],
)
def test_what_is_no_origin_at_all_is_refused_with_an_example(wrong: str) -> None:
    with pytest.raises(sockrpc.UsageError, match="looks like 'https:"):
        serve_with(["https://app.example", wrong])


@pytest.mark.parametrize("wrong", ["https://*.app.example", "https://app.example:*", "http*://app.example"])
def test_an_origin_with_a_wildcard_is_refused(wrong: str) -> None:
    with pytest.raises(sockrpc.UsageError, match="no wildcard"):
        serve_with({wrong})


def test_a_star_in_a_list_is_refused() -> None:
    with pytest.raises(sockrpc.UsageError, match=r"origins='\*'"):
        serve_with(["*"])


@pytest.mark.parametrize("wrong", [None, b"https://app.example", ["https://app.example"]])
def test_an_origin_that_is_no_text_is_refused(wrong: object) -> None:
    with pytest.raises(sockrpc.UsageError, match="an origin is text"):
        serve_with([wrong])


@pytest.mark.parametrize(
    "right",
    [
        "null",
        "file://",
        "http://localhost:5173",
        "https://a_b.example.",
        "http://192.0.2.1",
        "http://[::1]:8080",
        "app://page",
        "capacitor://localhost",
        "chrome-extension://abcdefghijklmnop",
    ],
)
async def test_what_browsers_and_shells_of_pages_send_can_be_let_in(right: str) -> None:
    assert (await answer_to(right, "example.org", [right])).status == 101


async def test_what_the_origin_holds_can_not_forge_a_line_of_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answer = await answer_to("https://evil.example\x80\x9b31m")
    assert answer.status == 403
    assert "\x9b" not in caplog.text


async def test_our_client_sends_the_origin_that_it_is_given(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(sockrpc.App(), origins=["https://app.example"]) as here:
        async with here.connect(origin="https://app.example"):
            opened = here.only_socket().request
            assert opened is not None
            assert opened.headers["Origin"] == "https://app.example"
        with pytest.raises(sockrpc.HandshakeError, match="evil") as raised:
            await here.connect(origin="https://evil.example")
        assert raised.value.status == 403


@pytest.mark.parametrize("length", [300, 301])
async def test_a_long_origin_does_not_fill_the_log(length: int, caplog: pytest.LogCaptureFixture) -> None:
    origin = "http://" + "x" * (length - len("http://"))
    answer = await answer_to(origin)
    assert answer.status == 403
    assert (origin.encode() in answer.body) == (origin in caplog.text) == (length == 300)
    assert len(caplog.messages) == 1
    assert len(caplog.messages[0]) < 1000
    # Where it is named, it may be as long as it likes.
    assert (await answer_to(origin, origins=[origin])).status == 101


@pytest.mark.parametrize("length", [300, 301])
async def test_a_long_host_does_not_fill_the_log(length: int, caplog: pytest.LogCaptureFixture) -> None:
    host = "x" * length
    answer = await answer_to("http://evil.example", host)
    assert answer.status == 403
    assert (host.encode() in answer.body) == (host in caplog.text) == (length == 300)
    # Where it is theirs, it may be as long as it likes.
    assert (await answer_to(f"http://{host}", host)).status == 101
