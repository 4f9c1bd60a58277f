"""Everything on the page, with the keyboard only."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.demo import Demo, button, frames, in_flight, listed, task_result, totals

# What Tab visits while nothing runs; the buttons that cancel are disabled then.
CONTROLS = [
    "Start",
    "Time-out: none",
    "Start 100",
    "calls in flight on the server",
    "Ping",
    "text to turn into upper case",
    "Call",
    "Ask",
    "messages",
    "message",
    "Send",
    "pause",
    "Clear",
    "list of frames, the latest first",
]

FOCUSED = """() => {
    const it = document.activeElement;
    return it.getAttribute("aria-label") ?? it.labels?.[0]?.innerText.trim() ?? it.innerText.trim();
}"""

# The ring that shows where the focus is, in pixels.
RING = """() => {
    const style = getComputedStyle(document.activeElement);
    return style.outlineStyle === "solid" ? parseFloat(style.outlineWidth) : 0;
}"""


def focused(page: Page) -> str:
    """The name of what has the focus."""
    name: str = page.evaluate(FOCUSED)
    return name


def tab_to(page: Page, name: str) -> None:
    """Press Tab until it gets there."""
    for _ in range(2 * len(CONTROLS)):
        if focused(page) == name:
            return
        page.keyboard.press("Tab")
    pytest.fail(f"Tab does not get to {name!r}")


def test_tab_visits_every_control_in_order_and_shows_where_it_is(page: Page) -> None:
    visited = []
    for _ in CONTROLS:
        page.keyboard.press("Tab")
        visited.append(focused(page))
        assert page.evaluate(RING) >= 2, visited[-1]
    assert visited == CONTROLS
    for name in reversed(CONTROLS[:-1]):
        page.keyboard.press("Shift+Tab")
        assert focused(page) == name
    enabled = page.locator("button:enabled, input:enabled, [tabindex='0']").count()
    assert enabled == len(CONTROLS)


@pytest.mark.parametrize("keys", [("Enter", "Space"), ("Space", "Enter")])
@pytest.mark.parametrize(
    ("start", "cancel", "count"), [("Start", "Cancel", 1), ("Start 100", "Cancel all", 100)]
)
def test_work_is_started_and_cancelled_and_the_focus_goes_with_it(
    page: Page, demo: Demo, start: str, cancel: str, count: int, keys: tuple[str, str]
) -> None:
    tab_to(page, start)
    page.keyboard.press(keys[0])
    expect(in_flight(page)).to_have_text(str(count))
    assert focused(page) == cancel
    page.keyboard.press(keys[1])
    expect(totals(page)).to_have_text(f"done 0 · aborted {count}")
    expect(button(page, start)).to_be_focused()
    assert len(demo.aborted("reset", count)) == count


def test_the_focus_stays_where_somebody_has_taken_it_meanwhile(page: Page) -> None:
    tab_to(page, "Time-out: none")
    page.keyboard.press("Home")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    tab_to(page, "Ask")
    expect(task_result(page)).to_have_text("timed out")
    expect(button(page, "Start")).to_be_enabled()
    assert focused(page) == "Ask"


def test_the_slider_is_moved_by_arrows(page: Page, demo: Demo) -> None:
    tab_to(page, "Time-out: none")
    shown = page.locator("#task-timeout-text")
    for key, text in (("ArrowLeft", "3.9 s"), ("Home", "0.5 s"), ("ArrowRight", "0.6 s"), ("End", "none")):
        page.keyboard.press(key)
        expect(shown).to_have_text(text)
    page.keyboard.press("Home")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(task_result(page)).to_have_text("timed out")
    expect(button(page, "Start")).to_be_focused()
    expect(totals(page)).to_have_text("done 0 · aborted 1")
    assert demo.aborted("reset", 1) == [1]


def test_calls_pings_and_the_chat(page: Page) -> None:
    tab_to(page, "Ping")
    page.keyboard.press("Space")
    expect(page.locator("#pong")).to_have_text(re.compile("ms$"))
    tab_to(page, "text to turn into upper case")
    page.keyboard.press("ControlOrMeta+A")
    page.keyboard.type("typed")
    page.keyboard.press("Enter")
    expect(page.locator("#upper-result")).to_have_text("TYPED")
    tab_to(page, "Ask")
    page.keyboard.press("Enter")
    expect(page.locator("#ip-result")).to_have_text(re.compile(":"))
    tab_to(page, "message")
    page.keyboard.type("typed too")
    tab_to(page, "Send")
    page.keyboard.press("Space")
    expect(page.get_by_role("log", name="messages")).to_have_text(re.compile("typed too$"))


def test_the_log_of_frames_is_paused_cleared_and_scrolled(page: Page) -> None:
    tab_to(page, "Start 100")
    page.keyboard.press("Enter")
    expect(in_flight(page)).to_have_text("100")
    tab_to(page, "calls in flight on the server")
    page.keyboard.press("End")
    expect(listed(page).last).to_be_in_viewport()
    tab_to(page, "list of frames, the latest first")
    page.keyboard.press("End")
    expect(page.get_by_role("cell", name="1", exact=True)).to_be_in_viewport()
    tab_to(page, "Cancel all")
    page.keyboard.press("Enter")
    expect(totals(page)).to_have_text("done 0 · aborted 100")
    tab_to(page, "pause")
    page.keyboard.press("Space")
    expect(page.get_by_role("checkbox", name="pause")).to_be_checked()
    tab_to(page, "Clear")
    page.keyboard.press("Enter")
    assert frames(page) == []
