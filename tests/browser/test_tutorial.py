"""The published tutorial's page, against the tutorial's server in both of its forms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Error, Page

from tests.kit.command import Command
from tests.kit.processes import ROOT, STOPPED, reserved_port

PUBLISHED_URL = "ws://127.0.0.1:3000/socket"


@pytest.fixture(scope="module", params=["app", "handle_socket"])
def tutorial(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the page, which is changed in its port only and served beside the endpoint."""
    folder = tmp_path_factory.mktemp("tutorial")
    html = Path(__file__).with_name("tutorial.html").read_text(encoding="utf-8")
    assert html.count(PUBLISHED_URL) == 1
    with reserved_port() as port:
        page = folder / "tutorial.html"
        page.write_text(html.replace(":3000/", f":{port}/"), encoding="utf-8")
        options = ["--port", str(port), "--path", "/socket", "--page", str(page)]
        with Command("serve", f"both_forms:{request.param}", *options, cwd=ROOT / "examples") as server:
            yield server.line()
            server.process.terminate()
            assert server.end() == STOPPED
            assert not server.logged("ERROR")
            assert not server.logged("WARNING")


@pytest.fixture
def page(tutorial: str, new_context: Callable[..., BrowserContext]) -> Page:
    return open_page(tutorial, new_context)


def open_page(url: str, new_context: Callable[..., BrowserContext]) -> Page:
    page = new_context().new_page()
    page.goto(url)
    page.wait_for_function("window.long_runing_task && socket.status().events.length === 2")
    return page


def console(page: Page, do: str) -> str:
    """What is logged first after something was done."""
    with page.expect_console_message() as logged:
        page.evaluate(do)
    return logged.value.text


def test_calls_with_every_kind_of_payload_that_the_tutorial_uses(page: Page) -> None:
    address = page.evaluate("rpc('myip', [])")
    assert address.startswith("127.0.0.1:")
    assert page.evaluate("rpc('myip')") == address
    assert page.evaluate("rpc('uppercase', 'hello')") == "HELLO"
    assert page.evaluate("socket.status()") == {"pending": [], "events": ["pong", "message"]}


def test_a_ping_comes_back_to_the_loop_over_pong(page: Page) -> None:
    assert console(page, "socket.notify('ping', 'hello, server')") == "[Pong] hello, server"
    assert console(page, "socket.notify('ping', [])") == "[Pong] "


def test_a_broadcast_comes_to_the_loops_over_message_of_all_pages(
    page: Page, tutorial: str, new_context: Callable[..., BrowserContext]
) -> None:
    other = open_page(tutorial, new_context)
    with other.expect_console_message() as heard:
        assert console(page, "socket.notify('broadcast', 'hello, all')") == "[Message] hello, all"
    assert heard.value.text == "[Message] hello, all"


def test_the_task_is_done_or_aborted_by_its_controller(page: Page) -> None:
    page.evaluate("void (window.done = long_runing_task(60000))")
    with pytest.raises(Error, match="TimeOut!"):
        page.evaluate("long_runing_task(300)")
    assert page.evaluate("socket.status().pending") == ["1"]
    error = page.evaluate(
        "long_runing_task(1).catch(({ id, name, reason, message }) => ({ id, name, reason, message }))"
    )
    assert error == {"id": 3, "name": "long_runing_task", "reason": "TimeOut!", "message": "TimeOut!"}
    output, _, milliseconds = page.evaluate("done").partition(": ")
    assert output == "done!"
    assert 2900 < int(milliseconds.removesuffix("ms")) < 30_000
    assert page.evaluate("socket.status().pending") == []


def test_an_abort_after_the_answer_does_no_harm(page: Page) -> None:
    sent = """async () => {
        const sent = [], send = socket.ws.send;
        socket.ws.send = function (data) {
            sent.push(new Uint8Array(data.buffer ?? data)[0]);
            send.call(this, data);
        };
        const c = new AbortController();
        await rpc("uppercase", "x", { signal: c.signal });
        c.abort("TimeOut!");
        await rpc("uppercase", "y");
        return sent;
    }"""
    assert page.evaluate(sent) == [2, 2]  # two requests, no reset
