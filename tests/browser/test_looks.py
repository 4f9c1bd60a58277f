"""How the page looks: on a desktop, on phones, by night; and what a screen reader finds. Saves pictures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.conftest import DESKTOP, Complaints, OpenTab
from tests.browser.demo import Demo, button, in_flight, task_result, totals
from tests.browser.test_reconnecting import LOST, forgive_refusals

PHONE = {"width": 390, "height": 844}
# The narrowest that WCAG asks for (1.4.10, Reflow).
NARROWEST = {"width": 320, "height": 640}
TABLET = {"width": 800, "height": 1100}

SCREENS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": DESKTOP},
    "dark": {"viewport": DESKTOP, "color_scheme": "dark"},
    "tablet": {"viewport": TABLET},
    "phone": {"viewport": PHONE},
    "phone-dark": {"viewport": NARROWEST, "color_scheme": "dark"},
}

RULES = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "resultTypes": ["violations"],
}

# The names of elements that stick out of the window, or whose text sticks out of them.
STICKING_OUT = """() => [...document.querySelectorAll("main *, header *")]
    .filter((it) => !it.closest(".scroll, .sr") && it.getClientRects().length)
    .filter((it) => it.getBoundingClientRect().right > innerWidth || it.scrollWidth > it.clientWidth + 1
        && getComputedStyle(it).display !== "inline")
    .map((it) => it.id || it.outerHTML.slice(0, 80))"""

# The relative luminance of the page's ground, as WCAG defines it.
LUMINANCE = """() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3)
    .map((each) => each / 255)
    .map((each) => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
    .reduce((sum, each, at) => sum + each * [0.2126, 0.7152, 0.0722][at], 0)"""


def show_everything(page: Page, other: Page) -> None:
    """Leave nothing on the page empty: a task runs, another one was cancelled, two pages have chatted."""
    for tab, words in ((page, "hello, everybody"), (other, "hello, you")):
        tab.get_by_role("textbox", name="message").fill(words)
        button(tab, "Send").click()
    expect(page.get_by_role("log", name="messages").locator("> *")).to_have_count(2)
    button(page, "Call").click()
    expect(page.locator("#upper-result")).to_have_text("HELLO, WORLD")
    button(page, "Ask").click()
    expect(page.locator("#ip-result")).to_have_text(re.compile(":"))
    button(page, "Ping").click()
    expect(page.locator("#pong")).to_have_text(re.compile("ms$"))
    button(page, "Start").click()
    expect(in_flight(page)).to_have_text("1")
    button(page, "Cancel").click()
    expect(totals(page)).to_have_text("done 0 · aborted 1")
    button(other, "Start").click()
    button(page, "Start").click()


@pytest.mark.parametrize("screen", SCREENS)
def test_it_fits_the_screen(open_tab: OpenTab, screenshots: Path, screen: str) -> None:
    page = open_tab(**SCREENS[screen])
    show_everything(page, open_tab())
    page.wait_for_function("document.querySelector('#task-progress').value > 1200")
    page.screenshot(path=screenshots / f"{screen}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(STICKING_OUT) == []


@pytest.mark.parametrize("screen", ["desktop", "dark", "phone-dark"])
def test_axe_finds_nothing_wrong(open_tab: OpenTab, screen: str) -> None:
    page = open_tab(**SCREENS[screen])
    button(page, "Start 100").click()
    show_everything_but_tasks(page)
    expect(in_flight(page)).to_have_text("100")
    found = Axe().run(page, options=RULES)
    assert found.violations_count == 0, found.generate_report()


def show_everything_but_tasks(page: Page) -> None:
    button(page, "Call").click()
    expect(page.locator("#upper-result")).to_have_text("HELLO, WORLD")
    page.get_by_role("textbox", name="message").fill("hello")
    button(page, "Send").click()
    expect(page.get_by_role("log", name="messages").locator("> *")).to_have_count(1)


@pytest.mark.parametrize("screen", ["desktop", "dark"])
def test_a_lost_connection_is_seen(
    open_tab: OpenTab, demo: Demo, screenshots: Path, complaints: Complaints, screen: str
) -> None:
    page = open_tab(**SCREENS[screen])
    button(page, "Start").click()
    expect(in_flight(page)).to_have_text("1")
    demo.kill()
    expect(page.get_by_role("status").filter(has_text=LOST)).to_be_visible()
    expect(task_result(page)).to_have_text("connection lost")
    page.screenshot(path=screenshots / f"lost-{screen}.png")
    found = Axe().run(page, options=RULES)
    assert found.violations_count == 0, found.generate_report()
    demo.restart()
    expect(page.get_by_text("connected again", exact=True)).to_be_visible()
    forgive_refusals(complaints)


def test_it_is_light_by_day_and_dark_by_night(open_tab: OpenTab) -> None:
    assert open_tab(color_scheme="light").evaluate(LUMINANCE) > 0.8
    assert open_tab(color_scheme="dark").evaluate(LUMINANCE) < 0.05


def test_a_screen_reader_finds_a_name_for_every_control(page: Page) -> None:
    button(page, "Start").click()
    expect(in_flight(page)).to_have_text("1")
    roles = "button|textbox|slider|checkbox|progressbar|list|log|region|table"
    found = re.findall(rf"^ *- (?:{roles})\b.*", page.locator("body").aria_snapshot(), re.MULTILINE)
    nameless = [each for each in found if not re.match(r' *- [a-z]+ "[^"]+"', each)]
    assert nameless == []
    assert len(found) >= 20
