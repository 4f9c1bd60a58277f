"""The page of each part of docs/tutorial, beside its server, does what the text says."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.kit.command import Served
from tests.kit.processes import ROOT, STOPPED

PROGRAMS = ROOT / "examples" / "tutorial"


class Tabs:
    """Opens a part's page, in a profile of its own each time, while its server runs."""

    def __init__(self, server: Served, new_context: Callable[..., BrowserContext]) -> None:
        self.server = server
        self._new_context = new_context

    def open(self) -> Page:
        page = self._new_context().new_page()
        page.goto(self.server.where)
        return page


def told(page: str, pattern: str) -> str:
    """What a page of the tutorial tells, in a sentence that others may reword."""
    text = " ".join((ROOT / "docs" / "tutorial" / f"{page}.md").read_text("utf-8").split())
    (found,) = re.findall(pattern, text)
    return str(found)


@pytest.fixture
def tabs(request: pytest.FixtureRequest, new_context: Callable[..., BrowserContext]) -> Iterator[Tabs]:
    with Served(
        "serve", "server:app", "--path", "/socket", "--page", "page.html", cwd=PROGRAMS / request.param
    ) as server:
        yield Tabs(server, new_context)
        server.process.terminate()
        assert server.end() == STOPPED
        assert not server.logged("ERROR")


@pytest.mark.parametrize("tabs", ["set_up"], indirect=True)
def test_the_page_says_that_it_is_connected(tabs: Tabs) -> None:
    expect(tabs.open().locator("p")).to_have_text(told("set-up", r'The page says "(.*?)"'))


@pytest.mark.parametrize("tabs", ["request_and_response"], indirect=True)
def test_the_page_shows_the_answer(tabs: Tabs) -> None:
    page = tabs.open()
    expect(page.locator("#address")).to_have_text("127.0.0.1")
    page.get_by_role("button", name="uppercase").click()
    expect(page.locator("#answer")).to_have_text(told("request-and-response", r"(\w+) appears beside it\."))


@pytest.mark.parametrize("tabs", ["notifications"], indirect=True)
def test_the_page_lists_what_it_hears(tabs: Tabs) -> None:
    page = tabs.open()
    lines = page.get_by_role("listitem")
    expect(lines).to_have_text([told("notifications", r'It shows "(.*?)"')])
    page.get_by_role("button", name="ping").click()
    expect(lines.last).to_have_text(told("notifications", r'Press "ping": "(.*?)"'))


@pytest.mark.parametrize("tabs", ["cancellation"], indirect=True)
def test_the_stop_button_stops_the_work_and_so_does_a_closed_tab(tabs: Tabs) -> None:
    server = tabs.server
    page = tabs.open()
    start = page.get_by_role("button", name="start")
    start.click()
    server.wait_log("call 1 begins")
    page.get_by_role("button", name="stop").click()
    expect(page.get_by_role("status")).to_have_text(told("cancellation", r'The page shows "(.*?)"'))
    server.wait_log("call 1 is aborted: reset")
    start.click()
    server.wait_log("call 2 begins")
    page.close()
    server.wait_log(told("cancellation", r"close the tab: the log says `(.*?)`"))


@pytest.mark.parametrize("tabs", ["broadcasting"], indirect=True)
def test_what_one_window_sends_appears_in_both(tabs: Tabs) -> None:
    one, other = tabs.open(), tabs.open()
    tabs.server.wait_log("in the room: 2")
    one.get_by_label("Message").fill("to both")
    one.get_by_role("button", name="send").click()
    for page in (one, other):
        expect(page.get_by_role("listitem")).to_have_text(["to both"])
