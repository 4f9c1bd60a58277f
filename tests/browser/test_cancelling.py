"""What the page cancels stops on the server: its list empties, its totals and its log tell of the abort."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from tests.browser.demo import (
    TASK,
    Demo,
    Frame,
    button,
    frames,
    in_flight,
    listed,
    task_result,
    totals,
)

REQUEST_BYTES = 1 + 4 + 1 + len(TASK)
RESET_BYTES = 1 + 4


def assert_usable(page: Page) -> None:
    """The connection still serves calls."""
    button(page, "Call").click()
    expect(page.locator("#upper-result")).to_have_text("HELLO, WORLD")


def test_the_cancel_button_stops_the_server_s_task(page: Page, demo: Demo) -> None:
    button(page, "Start").click()
    expect(listed(page)).to_have_text([re.compile(rf"^#1 {TASK} from ")])
    expect(in_flight(page)).to_have_text("1")
    button(page, "Cancel").click()
    expect(task_result(page)).to_have_text("cancelled")
    expect(in_flight(page)).to_have_text("0")
    expect(listed(page)).to_have_count(0)
    expect(totals(page)).to_have_text("done 0 · aborted 1")
    assert demo.aborted("reset", 1) == [1]
    assert_usable(page)
    assert frames(page)[:3] == [
        Frame("up", "request", 1, TASK, "", REQUEST_BYTES),
        Frame("up", "reset", 1, "", "", RESET_BYTES),
        Frame("up", "request", 2, "uppercase", "hello, world", 1 + 4 + 1 + 9 + 12),
    ]


def test_the_slider_sets_a_time_out_which_stops_the_server_s_task(page: Page, demo: Demo) -> None:
    slider = page.get_by_role("slider", name=re.compile("^Time-out"))
    expect(page.locator("#task-timeout-text")).to_have_text("none")
    slider.fill("500")
    expect(page.locator("#task-timeout-text")).to_have_text("0.5 s")
    assert slider.get_attribute("aria-valuetext") == "0.5 s"
    button(page, "Start").click()
    expect(task_result(page)).to_have_text("timed out")
    expect(in_flight(page)).to_have_text("0")
    expect(totals(page)).to_have_text("done 0 · aborted 1")
    assert demo.aborted("reset", 1) == [1]
    assert [each.frame for each in frames(page)] == ["request", "reset"]
    waited = page.get_by_role("progressbar").evaluate("bar => bar.value")
    assert 450 <= waited < 3000
    assert_usable(page)


def test_a_hundred_calls_are_cancelled_at_once(page: Page, demo: Demo) -> None:
    button(page, "Start 100").click()
    expect(in_flight(page)).to_have_text("100")
    expect(listed(page).last).to_have_text("and 80 more")
    button(page, "Cancel all").click()
    expect(page.locator("#many-result")).to_have_text("0 done, 100 cancelled")
    expect(in_flight(page)).to_have_text("0")
    expect(listed(page)).to_have_count(0)
    expect(totals(page)).to_have_text("done 0 · aborted 100")
    assert demo.aborted("reset", 100) == list(range(1, 101))
    sent = frames(page)
    assert [each.frame for each in sent] == ["request"] * 100 + ["reset"] * 100
    assert [each.id for each in sent] == [*range(1, 101), *range(1, 101)]
    assert_usable(page)


def test_cancelling_one_task_leaves_the_hundred_alone(page: Page, demo: Demo) -> None:
    button(page, "Start 100").click()
    button(page, "Start").click()
    expect(in_flight(page)).to_have_text("101")
    button(page, "Cancel").click()
    expect(task_result(page)).to_have_text("cancelled")
    expect(page.locator("#many-result")).to_have_text("100 done, 0 failed")
    expect(totals(page)).to_have_text("done 100 · aborted 1")
    assert demo.aborted("reset", 1) == [101]
