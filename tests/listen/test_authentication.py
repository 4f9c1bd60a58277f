"""examples/authentication.py: who is let in by a token, by a cookie and by a ticket, and who is not."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import pytest

import sockrpc
from examples import authentication
from tests.kit.http_peer import Answer, ask
from tests.kit.support import Serving, opening, serving

pytestmark = pytest.mark.newest

ALICE = {"Authorization": "Bearer alices-token"}


@pytest.fixture(autouse=True)
def nobody_is_known_yet() -> None:
    authentication.SESSIONS.clear()
    authentication.TICKETS.clear()


def guarded() -> AbstractAsyncContextManager[Serving]:
    return serving(authentication.app, path="/socket", process_request=authentication.process_request)


async def get(here: Serving, path: str, **headers: str) -> Answer:
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: 127.0.0.1",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return await ask(here.port, "\r\n".join([*lines, "", ""]).encode())


async def whoami(here: Serving, query: str = "", **headers: str) -> str:
    async with sockrpc.connect(here.uri + query, headers=headers) as client:
        return (await client.call("whoami")).decode()


async def refused(here: Serving, query: str = "", **headers: str) -> bool:
    with pytest.raises(sockrpc.HandshakeError, match="Who are you") as raised:
        await whoami(here, query, **headers)
    return raised.value.status == 401


async def test_a_bearer_token_lets_its_user_in() -> None:
    async with guarded() as here:
        assert await whoami(here, **ALICE) == "alice"
        assert await whoami(here, Authorization="bearer bobs-token") == "bob"


@pytest.mark.parametrize(
    "value", ["", "Bearer", "Bearer ", "Bearer alices-tokem", "Basic alices-token", "alices-token"]
)
async def test_anything_else_does_not(value: str) -> None:
    async with guarded() as here:
        assert await refused(here, Authorization=value)
        assert await refused(here)
        assert (await get(here, "/socket")).fields["www-authenticate"] == "Bearer"


async def test_a_ticket_lets_in_once() -> None:
    async with guarded() as here:
        answer = await get(here, "/ticket", **ALICE)
        assert (answer.status, answer.fields["cache-control"]) == (200, "no-store")
        query = f"?ticket={answer.body.decode()}"
        assert await whoami(here, query) == "alice"
        assert await refused(here, query)
        assert authentication.TICKETS == {}


async def test_a_ticket_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    async with guarded() as here:
        monkeypatch.setattr(authentication, "TICKET_SECONDS", 0.0)
        old = (await get(here, "/ticket", **ALICE)).body.decode()
        assert await refused(here, f"?ticket={old}")
        assert (await get(here, "/ticket")).status == 401


async def test_a_cookie_lets_its_user_in() -> None:
    async with guarded() as here:
        answer = await get(here, "/login", **ALICE)
        cookie, _, attributes = answer.fields["set-cookie"].partition("; ")
        assert attributes == "HttpOnly; SameSite=Strict; Path=/"
        assert await whoami(here, Cookie=f"theme=dark; {cookie}") == "alice"
        assert await refused(here, Cookie=cookie[:-1])
        assert await refused(here, Cookie="session; =;[=]")


@pytest.mark.parametrize(
    "others",
    ["a[b]=1", "a:b=1", "=", "session", "session=", "session=old", "caf\xe9=\xff", 'a="1', "a b", ",;,"],
)
async def test_other_cookies_do_not_spoil_the_session(others: str) -> None:
    async with guarded() as here:
        cookie = (await get(here, "/login", **ALICE)).fields["set-cookie"].partition(";")[0]
        for line in (f"{others}; {cookie}", f"{cookie};{others}"):
            assert await whoami(here, Cookie=line) == "alice"
        async with sockrpc.connect(here.uri, headers=[("Cookie", others), ("Cookie", cookie)]) as client:
            assert await client.call("whoami") == b"alice"


@pytest.mark.parametrize("target", ["/socket", "/login", "/ticket", "/elsewhere"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
async def test_two_authorizations_are_a_bad_request(
    method: str, target: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with guarded() as here:
        data = (
            f"{method} {target} HTTP/1.1\r\nHost: x\r\n"
            + "Authorization: Bearer alices-token\r\n" * 2
            + "\r\n"
        )
        assert (await ask(here.port, data.encode())).status == 400
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    "target",
    [
        "//[/socket",
        "//x/",
        "//",
        "/socket?ticket=%ff%00&ticket",
        "/socket?=;&&",
        "/s\\",
        "http://x/socket",
        "/%",
    ],
)
async def test_a_strange_target_lets_nobody_in_and_is_no_failure(
    target: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with guarded() as here:
        headers = {"Authorization": "Bearer \xff\xfe", "Cookie": "\xff"}
        answer = await ask(here.port, opening(target, **headers).decode().encode("latin-1"))
        assert (answer.status, answer.body) == (401, b"Who are you?\n")
    assert caplog.text == ""


async def test_a_page_of_another_site_is_refused_although_the_browser_sends_its_cookie(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with guarded() as here:
        cookie = (await get(here, "/login", **ALICE)).fields["set-cookie"].partition(";")[0]
        evil = opening("/socket", Cookie=cookie, Origin="https://evil.example")
        assert (await ask(here.port, evil)).status == 403
        assert "evil.example" in caplog.text
