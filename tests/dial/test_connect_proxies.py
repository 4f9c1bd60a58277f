"""Connecting through a proxy: by the environment or by its URL, by HTTP and by SOCKS."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

import sockrpc
from sockrpc.dial.reconnecting import is_transient
from sockrpc.websocket.headers import USER_AGENT
from tests.kit.forward_proxy import INSIDE, ForwardProxy
from tests.kit.inside import working
from tests.kit.support import PATIENCE, Serving, serving, until
from tests.kit.tls import client_context, server_context
from tests.kit.work import Work

pytestmark = pytest.mark.outside

VARIABLES = ("http_proxy", "https_proxy", "ws_proxy", "wss_proxy", "all_proxy", "socks_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def environ(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


async def call(uri: str, **options: Any) -> None:
    """One call, through whatever leads to the server, with a payload of many reads."""
    payload = b"x" * 1_000_000
    async with asyncio.timeout(PATIENCE), sockrpc.connect(uri, **options) as client:
        assert await client.call("echo", payload) == payload


def inside(here: Serving, scheme: str = "ws") -> str:
    """The server's URI by a name that only the proxy knows."""
    return f"{scheme}://{INSIDE}:{here.port}/"


@pytest.mark.parametrize(
    ("scheme", "variable"),
    [
        ("ws", "http_proxy"),
        ("ws", "HTTPS_PROXY"),
        ("ws", "ws_proxy"),
        ("ws", "ALL_PROXY"),
        ("wss", "https_proxy"),
        ("wss", "wss_proxy"),
    ],
)
async def test_the_environment_names_a_proxy(scheme: str, variable: str, environ: pytest.MonkeyPatch) -> None:
    tls = server_context(INSIDE) if scheme == "wss" else None
    async with serving(Work().app(), ssl=tls) as here, ForwardProxy() as proxy:
        environ.setenv(variable, proxy.url())
        await call(inside(here, scheme), ssl=client_context() if tls else None)
        assert proxy.asked == [(INSIDE, here.port)]


async def test_a_proxy_for_plain_lines_is_none_for_tls(environ: pytest.MonkeyPatch) -> None:
    async with serving(Work().app(), ssl=server_context()) as here, ForwardProxy() as proxy:
        environ.setenv("http_proxy", proxy.url())
        await call(here.uri.replace("ws:", "wss:"), ssl=client_context())
        assert proxy.asked == []


@pytest.mark.parametrize("variable", ["http_proxy", "all_proxy"])
async def test_no_proxy_is_honoured(variable: str, environ: pytest.MonkeyPatch) -> None:
    async with serving(Work().app()) as here, ForwardProxy() as proxy:
        environ.setenv(variable, proxy.url())
        for hosts in ("127.0.0.1", f"127.0.0.1:{here.port}", "*", "a.example, 127.0.0.1"):
            environ.setenv("no_proxy", hosts)
            await call(here.uri)
        assert proxy.asked == []
        environ.setenv("no_proxy", "127.0.0.2")
        await call(here.uri)
        assert proxy.asked == [("127.0.0.1", here.port)]


async def test_none_goes_past_the_proxy_of_the_environment(environ: pytest.MonkeyPatch) -> None:
    async with serving(Work().app()) as here, ForwardProxy() as proxy:
        environ.setenv("http_proxy", proxy.url())
        await call(here.uri, proxy=None)
        assert proxy.asked == []


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no unix sockets")
async def test_a_unix_socket_and_a_socket_that_is_given_go_past_it(
    environ: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with ForwardProxy() as proxy, serving(Work().app()) as here:
        environ.setenv("http_proxy", proxy.url())
        path = str(tmp_path / "s")
        async with sockrpc.serve(Work().app(), uds=path):
            await call("ws://localhost/", uds=path)
        await call(here.uri, sock=socket.create_connection(("127.0.0.1", here.port)))
        assert proxy.asked == []


@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize("proxy_tls", [False, True], ids=["http", "https"])
async def test_http_proxies_with_and_without_tls_before_and_behind_them(
    secure: bool, proxy_tls: bool
) -> None:
    options: dict[str, Any] = {"ssl": client_context()} if secure else {}
    options |= {"proxy_ssl": client_context()} if proxy_tls else {}
    async with (
        serving(Work().app(), ssl=server_context(INSIDE) if secure else None) as here,
        ForwardProxy(tls=server_context() if proxy_tls else None) as proxy,
    ):
        scheme = "https" if proxy_tls else "http"
        url = proxy.url(scheme, "me%40corp:pass%3Aword@")
        await call(inside(here, "wss" if secure else "ws"), proxy=url, **options)
        assert proxy.asked == [(INSIDE, here.port)]
        lines = proxy.heads[0].splitlines()
        assert f"User-Agent: {USER_AGENT}" in lines
        (credentials,) = (line for line in lines if line.startswith("Proxy-Authorization: Basic "))
        assert base64.b64decode(credentials.split()[-1]) == b"me@corp:pass:word"
        assert not here.server.connections


async def test_the_proxy_is_not_shown_what_is_for_the_server() -> None:
    async with serving(Work().app()) as here, ForwardProxy() as proxy:
        headers = {"Cookie": "secret", "User-Agent": "mine"}
        await call(f"ws://me:secret@127.0.0.1:{here.port}/secret", proxy=proxy.url(), headers=headers)
        assert "secret" not in proxy.heads[0]
        assert "Authorization" not in proxy.heads[0]
        assert "User-Agent: mine\r\n" in proxy.heads[0]


async def test_a_proxy_that_is_not_trusted_is_an_error_of_its_certificate() -> None:
    async with serving(Work().app()) as here, ForwardProxy(tls=server_context()) as proxy:
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            await call(here.uri, proxy=proxy.url("https"))
        assert proxy.asked == []


async def test_a_server_behind_a_proxy_that_is_not_trusted_is_an_error_of_its_certificate() -> None:
    async with serving(Work().app(), ssl=server_context("other.test")) as here, ForwardProxy() as proxy:
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            await call(inside(here, "wss"), proxy=proxy.url(), ssl=client_context())
        assert proxy.asked == [(INSIDE, here.port)]


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 4\r\n\r\nwho?", 407),
        (b"HTTP/1.0 403 Forbidden\r\n\r\nnot there", 403),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 99\r\n\r\ndown", 502),
        (b"HTTP/1.1 503\r\n\r\n", 503),
        (b"HTTP/1.1 504 Slow\r\n", 504),
        (b"HTTP/1.1 403 No\r\n" + b"X-Header: y\r\n" * 500 + b"\r\n", 403),
        (b"SMTP ready\r\n", None),
    ],
)
async def test_what_the_proxy_refuses_with_reaches_the_caller(answer: bytes, status: int | None) -> None:
    async with ForwardProxy(answer=answer) as proxy, asyncio.timeout(PATIENCE):
        with pytest.raises(
            sockrpc.HandshakeError, match=f"the proxy http://127.0.0.1:{proxy.port}"
        ) as raised:
            await sockrpc.connect(f"ws://{INSIDE}/", proxy=proxy.url(user="me:secret@"))
        assert raised.value.status == status
        assert "secret" not in str(raised.value)


async def test_the_body_of_a_refusal_is_not_waited_for_long() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Who are you\r\nContent-Length: 99\r\n\r\nwho?")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server, asyncio.timeout(PATIENCE / 2):
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(sockrpc.HandshakeError, match="who") as raised:
            await sockrpc.connect(f"ws://{INSIDE}/", proxy=f"http://127.0.0.1:{port}", open_timeout=PATIENCE)
    assert raised.value.status == 407


@pytest.mark.parametrize(
    ("kind", "scheme", "answer"),
    [
        ("http", "http", b""),
        ("socks5", "socks5", b""),
        ("socks5", "socks5h", b"\x05\x00"),
        ("socks5", "socks5h", b"\x05\x00\x00\x03\x09proxy"),
        ("socks4", "socks4", b""),
        ("socks4", "socks4a", b"\x00\x5a\x00"),
    ],
)
async def test_a_proxy_that_closes_is_a_lost_connection(kind: str, scheme: str, answer: bytes) -> None:
    host = INSIDE if scheme in ("http", "socks5h", "socks4a") else "127.0.0.1"
    async with ForwardProxy(kind, answer=answer) as proxy, asyncio.timeout(PATIENCE):
        with pytest.raises(sockrpc.ConnectionLost, match=f"the proxy {scheme}://.* closed") as raised:
            await sockrpc.connect(f"ws://{host}/", proxy=proxy.url(scheme))
        assert raised.value.code == 1006
        assert is_transient(raised.value)


@pytest.mark.parametrize("kind", ["http", "socks5", "socks4"])
async def test_a_proxy_that_closes_is_asked_again(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockrpc.dial.reconnecting, "FIRST_DELAY", 0.001)
    async with (
        serving(Work().app()) as here,
        ForwardProxy(kind, answer=b"") as proxy,
        asyncio.timeout(PATIENCE),
        contextlib.aclosing(aiter(here.connect(proxy=proxy.url()))) as clients,
    ):
        connecting = asyncio.ensure_future(anext(clients))
        await until(lambda: len(proxy.asked) >= 2)
        assert not connecting.done()
        proxy.answer = None
        assert await (await connecting).call("echo", b"x") == b"x"


async def test_a_reply_of_socks_that_is_no_text_is_told() -> None:
    reply = b"\x05\x00\x00\x03\x02\xff\xff\x00\x50"
    async with ForwardProxy("socks5", answer=reply) as proxy, asyncio.timeout(PATIENCE):
        with pytest.raises(sockrpc.HandshakeError, match=r"the proxy socks5h://.*'s answer cannot"):
            await sockrpc.connect(f"ws://{INSIDE}/", proxy=proxy.url("socks5h"))


async def test_a_proxy_that_does_not_answer_is_a_time_out() -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        ended.set()
        writer.close()

    ended = asyncio.Event()
    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for scheme in ("http", "socks5h"):
        ended.clear()
        with pytest.raises(TimeoutError, match="no connection to ws://inside"):
            await sockrpc.connect(f"ws://{INSIDE}/", proxy=f"{scheme}://127.0.0.1:{port}", open_timeout=0.2)
        async with asyncio.timeout(PATIENCE):
            await ended.wait()
    server.close()


@pytest.mark.parametrize("scheme", ["socks4", "socks4a", "socks5", "socks5h"])
@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
async def test_socks(scheme: str, secure: bool) -> None:
    # The proxy looks a name up only where its protocol is able to.
    host = INSIDE if scheme in ("socks4a", "socks5h") else "localhost"
    kind = scheme[:6]
    async with (
        serving(Work().app(), ssl=server_context(INSIDE, "localhost") if secure else None) as here,
        ForwardProxy(kind) as proxy,
    ):
        uri = f"{'wss' if secure else 'ws'}://{host}:{here.port}/"
        await call(uri, proxy=proxy.url(scheme), ssl=client_context() if secure else None)
        assert proxy.asked == [(INSIDE if host == INSIDE else "127.0.0.1", here.port)]


async def test_socks_by_the_environment_and_with_credentials(environ: pytest.MonkeyPatch) -> None:
    async with (
        serving(Work().app()) as here,
        ForwardProxy("socks5", credentials=("me", "word")) as proxy,
    ):
        environ.setenv("all_proxy", proxy.url("socks5h", "me:word@"))
        await call(inside(here))
        for user in ("me:other@", ""):
            with pytest.raises(sockrpc.HandshakeError, match="the proxy socks5h://127") as raised:
                await call(inside(here), proxy=proxy.url("socks5h", user))
            assert "other" not in str(raised.value)


@pytest.mark.parametrize(("reply", "transient"), [(1, True), (2, False), (4, True), (5, True), (8, False)])
async def test_what_socks_refuses_with_tells_a_line_that_may_come_back_from_a_rule(
    reply: int, transient: bool
) -> None:
    async with ForwardProxy("socks5", answer=bytes([5, reply, 0, 1]) + bytes(6)) as proxy:
        expected = ConnectionError if transient else sockrpc.HandshakeError
        with pytest.raises(expected, match=f"the proxy socks5h://.* did not connect to {INSIDE}:80"):
            await call(f"ws://{INSIDE}/", proxy=proxy.url("socks5h"))


async def test_socks_without_python_socks_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_socks", None)
    with pytest.raises(sockrpc.UsageError, match=r"sockrpc\[socks\]"):
        await sockrpc.connect("ws://localhost/", proxy="socks5://localhost:1080")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://localhost",
        "localhost:3128",
        "http://",
        "http://me@localhost",
        "http://a:b@localhost/x",
        "http://a..example",
        "socks5://me:secr\u00e9t@localhost",
        "socks4://secret" + "x" * 256 + ":@localhost",
        "http://h:x",
    ],
)
async def test_what_is_no_url_of_a_proxy_is_a_usage_error(url: str, environ: pytest.MonkeyPatch) -> None:
    with pytest.raises(sockrpc.UsageError, match="proxy") as raised:
        sockrpc.connect("ws://localhost/", proxy=url)
    assert "a:b@" not in str(raised.value)
    environ.setenv("http_proxy", url)
    with pytest.raises(sockrpc.UsageError, match="proxy"):
        await sockrpc.connect("ws://localhost/")


async def test_a_connect_through_a_proxy_that_is_cancelled_leaves_nothing() -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
    async with serving(Work().app(), ssl=server_context(INSIDE)) as here, ForwardProxy() as proxy:
        uri = inside(here, "wss")
        for turns in range(36):
            connecting = asyncio.ensure_future(
                _connect(uri, proxy=proxy.url(), ssl=client_context(), open_timeout=PATIENCE)
            )
            for _ in range(turns):
                await asyncio.sleep(0)
            connecting.cancel()
            await asyncio.wait([connecting])
            if not connecting.cancelled():
                await connecting.result().close()
        await until(lambda: not working(here.server))
        # Futures that nobody has waited for tell when they are freed.
        gc.collect()
        assert complaints == []


async def _connect(uri: str, **options: Any) -> sockrpc.Client:
    return await sockrpc.connect(uri, **options)
