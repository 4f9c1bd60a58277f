"""No message shows what may be a name, a password or a token, whatever is wrong with what it stands in."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback
from typing import Any

import pytest

import sockrpc
import sockrpc.dial.reconnecting
from sockrpc.dial.redirects import Target
from sockrpc.websocket.uris import read_uri, shown_url
from tests.kit.command import run_command
from tests.kit.processes import reserved_port
from tests.kit.support import PATIENCE, until

pytestmark = pytest.mark.outside

# Each is wrong in its own way; what is to be hidden has the mark in it.
MARK = "QQ"
WRONG = [
    "{s}://me:QQ/QQ@host",
    "{s}://me:QQ/QQ@host/path",
    "{s}://me:QQ?QQ@host",
    "{s}://me:QQ#QQ@host",
    "{s}://me:[QQ@host/",
    "{s}://me:]QQ@host/",
    "{s}://me:QQ@host:99999/",
    "{s}://me:QQ@host:port/",
    "{s}://me:QQ@",
    "{s}://me:QQ@/path",
    "{s}://me:QQ@[::1/",
    "{s}://me:QQ@a..b/",
    "{s}://me:QQ@{{}}..a/",
    "{s}://me:QQ@ö..x/",
    "{s}://QQ@host/",
    "{s}://me:%ffQQ@host/",
    "{s}://me:QQ\uff0f@host/",
    "{s}://QQ@QQ@host..b/",
    "{s}:me:QQ@host/",
    "{s}:/me:QQ@host/",
    "//me:QQ@host:port",
    "me:QQ@host",
    "QQ:@host",
    "ftp://me:QQ@host",
]
WRONG_FOR_WEBSOCKETS = [
    "{s}://host:port/?token=QQ",
    "{s}://host/a b?token=QQ",
    "{s}://host:port/?mail=a@QQ#fragment",
    "{s}://me:QQ QQ@host/",
    "{s}://me:\udc80QQ@host/",
]


def check(error: BaseException) -> None:
    """All that a traceback shows of it, but for lines of code."""
    assert MARK not in "".join(traceback.format_exception(error, limit=0))


@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest.mark.parametrize("form", [*WRONG, *WRONG_FOR_WEBSOCKETS, "{s}://host/?token=QQ#fragment"])
def test_a_complaint_about_a_uri(form: str, scheme: str) -> None:
    with pytest.raises(sockrpc.UsageError) as raised:
        sockrpc.connect(form.format(s=scheme))
    check(raised.value)


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
@pytest.mark.parametrize("form", WRONG)
async def test_a_complaint_about_a_proxy(form: str, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = form.format(s=scheme)
    with pytest.raises(sockrpc.UsageError, match="the proxy's URL is not valid") as raised:
        sockrpc.connect("ws://host/", proxy=url)
    check(raised.value)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("ws_proxy", url)
    with pytest.raises(sockrpc.UsageError) as raised:
        await sockrpc.connect("ws://host/")
    check(raised.value)


@pytest.mark.parametrize("form", WRONG + WRONG_FOR_WEBSOCKETS)
def test_a_complaint_about_a_redirect(form: str) -> None:
    target = Target(read_uri("wss://a.example/path"), ())
    location = form.format(s="ws")
    with pytest.raises(sockrpc.HandshakeError, match="which is not followed") as raised:
        target.redirected(sockrpc.HandshakeError("Moved", 301, location), followed=0, fixed="sock")
    check(raised.value)
    assert raised.value.location == location


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"Authorization": "Bearer QQ\n"}, r"header Authorization has '\\n' in it"),
        ({"Cookie": "QQ=€"}, "header Cookie has '€' in it"),
        ({"Authorization": b"QQ"}, "not str and bytes"),
        ({"no name": "QQ"}, "'no name' is not the name"),
    ],
)
def test_a_complaint_about_a_header(headers: Any, said: str) -> None:
    with pytest.raises(sockrpc.UsageError, match=said) as raised:
        sockrpc.connect("ws://host/", headers=headers)
    check(raised.value)


def test_a_slash_in_a_password_is_named_as_the_fault() -> None:
    with pytest.raises(sockrpc.UsageError, match=r"^'ws://...@host/x' is not .* a slash as %2F$"):
        sockrpc.connect("ws://me:QQ/QQ@host/x")
    assert read_uri("ws://me:QQ%2FQQ@host/x").user_info == ("me", "QQ/QQ")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ws://host:1/path", "ws://host:1/path"),
        ("ws://host/?", "ws://host/?..."),
        ("ws://host/a?b#c", "ws://host/a?..."),
        ("ws://host#c", "ws://host#..."),
        ("ws://a:b@host/c@d", "ws://...@d"),
        ("/path", "/path"),
        ("", ""),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert shown_url(url) == shown


@pytest.mark.parametrize("end", ["?token=QQ", "QQ@host", "QQ@host/"])
async def test_errors_and_logs_of_connecting(
    end: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockrpc.dial.reconnecting, "FIRST_DELAY", 0.001)
    caplog.set_level(logging.DEBUG)
    with reserved_port() as port:
        # With these the port is a good one, and the rest of a password with a slash is a path.
        connecting = sockrpc.connect(f"ws://127.0.0.1:{port}/{end}", headers={"Authorization": MARK})
        with pytest.raises(ConnectionRefusedError) as raised:
            await connecting
        check(raised.value)
        async with contextlib.aclosing(aiter(connecting)) as clients, asyncio.timeout(PATIENCE):
            waiting = asyncio.ensure_future(anext(clients))
            await until(lambda: f"127.0.0.1:{port}/" in caplog.text)
            waiting.cancel()
            await asyncio.wait([waiting])
    assert MARK not in caplog.text


@pytest.mark.parametrize("command", [["call", "m"], ["notify", "e"], ["listen", "e"], ["bench"]])
def test_the_command_line(command: list[str]) -> None:
    name, *rest = command
    for uri in ("ws://me:QQ/QQ@host", "ws://me:QQ@127.0.0.1:0/", "me:QQ@host"):
        done = run_command(name, uri, *rest)
        assert done.returncode == 2
        assert MARK.encode() not in done.stdout + done.stderr
    done = run_command(name, "ws://127.0.0.1:1/", *rest, "--header", "Authorization QQ")
    assert done.returncode == 2
    assert MARK.encode() not in done.stdout + done.stderr
