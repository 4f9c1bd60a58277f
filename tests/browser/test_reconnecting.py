"""The server dies and comes back: the page says so, fails what was in flight, connects again by itself."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from tests.browser.conftest import Complaints, OpenTab
from tests.browser.demo import Demo, button, frames, in_flight, listed, task_result, totals

LOST = re.compile(r"^connection lost, trying again in \d+\.\d s$")


def forgive_refusals(complaints: Complaints) -> None:
    """A browser reports every refused connection in the console, whatever a page does about it."""
    refused = re.compile(r"error: WebSocket connection to '\S+' failed: .*(ERR_CONNECTION_|close)")
    complaints[:] = [each for each in complaints if not refused.match(each)]


def test_calls_in_flight_fail_and_the_page_reconnects_by_itself(
    page: Page, demo: Demo, complaints: Complaints
) -> None:
    button(page, "Start").click()
    button(page, "Start 100").click()
    expect(in_flight(page)).to_have_text("101")
    demo.kill()
    expect(page.get_by_role("status").filter(has_text=LOST)).to_be_visible()
    expect(task_result(page)).to_have_text("connection lost")
    expect(page.locator("#many-result")).to_have_text("0 done, 100 failed")
    expect(in_flight(page)).to_have_text("0")
    expect(listed(page)).to_have_count(0)
    for name, result in (("Ask", "#ip-result"), ("Call", "#upper-result")):
        button(page, name).click()
        expect(page.locator(result)).to_have_text("connection lost")

    demo.restart()
    expect(page.get_by_text("connected again", exact=True)).to_be_visible()
    # What was in flight is never sent again, and listeners go on.
    expect(totals(page)).to_have_text("done 0 · aborted 0")
    assert demo.process.logged("begins") == []
    button(page, "Clear").click()
    button(page, "Call").click()
    expect(page.locator("#upper-result")).to_have_text("HELLO, WORLD")
    assert [each.frame for each in frames(page)] == ["request", "response"]
    button(page, "Ping").click()
    expect(page.locator("#pong")).to_have_text(re.compile("ms$"))
    button(page, "Start").click()
    expect(in_flight(page)).to_have_text("1")
    button(page, "Cancel").click()
    expect(totals(page)).to_have_text("done 0 · aborted 1")
    forgive_refusals(complaints)


def test_every_tab_reconnects_and_the_chat_goes_on(
    open_tab: OpenTab, demo: Demo, complaints: Complaints
) -> None:
    ada = open_tab()
    bob = open_tab(beside=ada)
    demo.kill()
    for tab in (ada, bob):
        expect(tab.get_by_text(LOST)).to_be_visible()
    ada.get_by_role("textbox", name="message").fill("anybody there?")
    demo.restart()
    for tab in (ada, bob):
        expect(tab.get_by_text("connected again", exact=True)).to_be_visible()
    button(ada, "Send").click()
    for tab in (ada, bob):
        expect(tab.get_by_role("log", name="messages")).to_have_text(re.compile("anybody there"))
    forgive_refusals(complaints)


def test_a_message_that_can_not_be_sent_stays_in_its_box(
    page: Page, demo: Demo, complaints: Complaints
) -> None:
    demo.kill()
    expect(page.get_by_text(LOST)).to_be_visible()
    box = page.get_by_role("textbox", name="message")
    box.fill("do not lose me")
    # Between two attempts; while one is made a message would wait for its outcome.
    page.evaluate(
        """() => new Promise((resolve) => {
            const send = () => {
                const { state } = document.querySelector("#connection").dataset;
                if (state !== "lost") return setTimeout(send, 5);
                document.querySelector("#chat-form button").click();
                resolve();
            };
            send();
        })"""
    )
    expect(page.locator("#chat-result")).to_have_text("connection lost")
    expect(box).to_have_value("do not lose me")
    demo.restart()
    expect(page.get_by_text("connected again", exact=True)).to_be_visible()
    box.press("Enter")
    expect(page.get_by_role("log", name="messages")).to_have_text(re.compile("do not lose me"))
    expect(page.locator("#chat-result")).to_have_text("")
    forgive_refusals(complaints)


def test_a_server_that_stops_gently_answers_what_is_in_flight_first(
    page: Page, demo: Demo, complaints: Complaints
) -> None:
    button(page, "Start").click()
    expect(in_flight(page)).to_have_text("1")
    demo.stop()
    expect(task_result(page)).to_have_text("done!")
    expect(page.get_by_text(LOST)).to_be_visible()
    demo.restart()
    expect(page.get_by_text("connected again", exact=True)).to_be_visible()
    forgive_refusals(complaints)
