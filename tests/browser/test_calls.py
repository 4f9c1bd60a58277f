"""Calls, notifications and the chat, as the page shows them."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenTab
from tests.browser.demo import TASK, Demo, Frame, button, frames, in_flight, listed, task_result, totals


def test_a_call_is_answered_and_its_frames_are_shown_field_by_field(page: Page) -> None:
    page.get_by_label("text to turn into upper case").fill("grüße")
    button(page, "Call").click()
    expect(page.locator("#upper-result")).to_have_text("GRÜSSE")
    assert frames(page) == [
        Frame("up", "request", 1, "uppercase", "grüße", 1 + 4 + 1 + 9 + 7),
        Frame("down", "response", 1, "", "GRÜSSE", 1 + 4 + 7),
    ]


def test_a_ping_comes_back_with_its_round_trip_time(page: Page) -> None:
    button(page, "Ping").click()
    expect(page.locator("#pong")).to_have_text(re.compile(r"^\d+\.\d\d ms$"))
    ping, pong = frames(page)
    assert (ping.way, ping.frame, ping.id, ping.name) == ("up", "notify", None, "ping")
    assert (pong.way, pong.frame, pong.id, pong.name) == ("down", "notify", None, "pong")
    assert ping.payload == pong.payload
    assert pong.size == ping.size == 1 + 1 + 4 + len(ping.payload)


def test_the_address_is_the_one_that_the_server_sees(page: Page, demo: Demo) -> None:
    button(page, "Ask").click()
    expect(page.locator("#ip-result")).to_have_text(re.compile(r"^127\.0\.0\.1:\d+$"))
    shown = page.locator("#ip-result").inner_text()
    button(page, "Start").click()
    expect(listed(page)).to_have_text([f"#2 {TASK} from {shown}"])
    demo.process.wait_log(f"call 2: the 3 s task of {shown} begins")


def test_a_task_that_nobody_cancels_fills_the_bar_and_is_done(page: Page, demo: Demo) -> None:
    expect(task_result(page)).to_have_text("not started")
    expect(page.get_by_role("list", name="calls in flight")).to_be_visible()
    bar = page.get_by_role("progressbar", name="progress of the task")
    button(page, "Start").click()
    expect(task_result(page)).to_have_text("running")
    expect(in_flight(page)).to_have_text("1")
    assert 0 < bar.evaluate("bar => bar.value") < 3000
    expect(task_result(page)).to_have_text("done!")
    assert bar.evaluate("bar => bar.value") == 3000
    expect(in_flight(page)).to_have_text("0")
    expect(totals(page)).to_have_text("done 1 · aborted 0")
    demo.process.wait_log("call 1: the task is done")


def test_the_log_of_frames_pauses_and_is_cleared(page: Page) -> None:
    button(page, "Ask").click()
    expect(page.locator("#ip-result")).to_have_text(re.compile(":"))
    page.get_by_role("checkbox", name="pause").check()
    button(page, "Ping").click()
    expect(page.locator("#pong")).to_have_text(re.compile("ms"))
    assert [each.frame for each in frames(page)] == ["request", "response"]
    button(page, "Clear").click()
    assert frames(page) == []
    page.get_by_role("checkbox", name="pause").uncheck()
    button(page, "Call").click()
    expect(page.locator("#upper-result")).to_have_text("HELLO, WORLD")
    assert [each.frame for each in frames(page)] == ["request", "response"]


def test_two_tabs_chat(open_tab: OpenTab) -> None:
    ada = open_tab()
    bob = open_tab(beside=ada)
    names = [tab.locator("#chat-name").inner_text() for tab in (ada, bob)]
    words = ["hello, Bob", "<b>hello</b>, Ada"]
    heard: list[str] = []
    for tab, name, text in zip((ada, bob), names, words, strict=True):
        box = tab.get_by_role("textbox", name="message")
        box.fill(text)
        box.press("Enter")
        expect(box).to_have_value("")
        heard.append(f"{name}: {text}")
        for either in (ada, bob):
            expect(either.get_by_role("log", name="messages").locator("> *")).to_have_text(heard)


def test_another_tab_sees_the_calls_in_flight_and_the_end_of_those_of_a_closed_tab(
    open_tab: OpenTab, demo: Demo
) -> None:
    working = open_tab()
    watching = open_tab(beside=working)
    button(working, "Start").click()
    expect(listed(watching)).to_have_text([re.compile(rf"^#1 {TASK} from 127\.0\.0\.1:\d+$")])
    working.close()
    expect(in_flight(watching)).to_have_text("0")
    expect(totals(watching)).to_have_text("done 0 · aborted 1")
    assert demo.aborted("lost", 1) == [1]
