"""A browser, which can set no header of a WebSocket, gets in by a ticket and by a cookie."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from tests.browser.demo import button
from tests.kit.command import Command
from tests.kit.processes import ROOT, STOPPED, eventually, is_listening, reserved_port

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

NewContext = Callable[..., "BrowserContext"]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    program = str(ROOT / "examples" / "authentication.py")
    with reserved_port() as port, Command(str(port), program=(program,)) as server:
        eventually(lambda: is_listening(port) or server.process.poll() is not None)
        yield f"http://127.0.0.1:{port}/"
        server.process.terminate()
        assert server.end() == STOPPED


@pytest.fixture
def page(url: str, new_context: NewContext) -> Page:
    page = new_context().new_page()
    page.goto(url)
    return page


@pytest.mark.parametrize("way", ["ticket", "cookie"])
def test_the_server_knows_who_it_is(page: Page, way: str) -> None:
    from playwright.sync_api import expect

    page.get_by_label("Token").fill("bobs-token")
    button(page, f"Connect by {way}").click()
    expect(page.locator("output")).to_have_text("bob")
    # The cookie is out of reach of the page's programs.
    assert page.evaluate("document.cookie") == ""


def test_a_stranger_is_not_let_in(page: Page, complaints: list[str]) -> None:
    from playwright.sync_api import expect

    page.get_by_label("Token").fill("nobodys-token")
    button(page, "Connect by ticket").click()
    expect(page.locator("output")).to_contain_text("connection lost")
    # Chromium complains of both requests: of the ticket's and of the WebSocket's.
    assert len(complaints) >= 2
    assert all(re.search("401|HTTP Authentication failed", each) for each in complaints)
    complaints.clear()


def test_a_page_of_another_site_gets_nothing_out_of_the_cookie(
    url: str, page: Page, complaints: list[str]
) -> None:
    from playwright.sync_api import expect

    button(page, "Connect by cookie").click()
    expect(page.locator("output")).to_have_text("alice")
    # Another site in the same browser, which has the cookie; 127.0.0.1 and localhost would be one host.
    other = page.context.new_page()
    other.route(
        "https://evil.example/", lambda route: route.fulfill(body="<!doctype html>", content_type="text/html")
    )
    other.goto("https://evil.example/")
    closed = other.evaluate(
        """url => new Promise(resolve => {
            const socket = new WebSocket(url, "websocket.io-rpc-v0.1");
            socket.onopen = () => resolve("open");
            socket.onclose = event => resolve(event.code);
        })""",
        url.replace("http:", "ws:") + "socket",
    )
    assert closed == 1006
    assert complaints
    complaints.clear()
