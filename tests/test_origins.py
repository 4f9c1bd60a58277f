"""Which pages may open a WebSocket: those of the same host, and those that the application names."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import pytest

import sockrpc
from tests.http_peer import Answer, ask_to_open
from tests.support import opening, serving

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
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "https://evil.example/http://127.0.0.1"),
        ("127.0.0.1", "https://127.0.0.1@evil.example"),
        ("127.0.0.1", "http://[::1"),
        ("127.0.0.1", "http://127.0.0.1, https://evil.example"),
        ("", "http://127.0.0.1"),
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


async def test_a_single_origin_instead_of_a_collection_is_a_usage_error() -> None:
    with pytest.raises(sockrpc.UsageError, match="origins"):
        sockrpc.serve(sockrpc.App(), "127.0.0.1", 0, origins="https://app.example")


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
