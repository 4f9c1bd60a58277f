"""A real Chromium, a real `sockrpc demo` for each test, and nobody who complains in the console."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.demo import Demo
from tests.kit.processes import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Response

# Other runs of pytest meet these files, too; what the `browser` group brings is not there then. A run
# that asks for them nevertheless ends with "no tests were collected", which is a failure.
if importlib.util.find_spec("playwright") is None:
    collect_ignore_glob = ["test_*.py"]

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox",  # root has none
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP = {"width": 1280, "height": 900}
PATIENCE_MS = 15_000

Complaints = list[str]
OpenTab = Callable[..., "Page"]


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.browser)


# Not longer than this package: Playwright's loop would run in the thread of all the tests that follow.
@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    from playwright.sync_api import expect, sync_playwright

    assert CHROMIUM is not None, "there is no Chromium (Debian: apt-get install chromium fonts-liberation)"
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def complaints() -> Iterator[Complaints]:
    """Errors and warnings in the console, all pages together; whoever expects some takes them out."""
    complained: Complaints = []
    yield complained
    assert complained == []


@pytest.fixture
def new_context(chromium: Browser, complaints: Complaints) -> Iterator[Callable[..., BrowserContext]]:
    """Makes a browser profile of its own, whose tabs share nothing with those of others."""
    contexts = []

    def on_console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            complaints.append(f"{message.type}: {message.text}")

    def on_response(response: Response) -> None:
        if response.status >= 400:
            complaints.append(f"{response.status}: {response.url}")

    def new(**options: Any) -> BrowserContext:
        context = chromium.new_context(**{"viewport": DESKTOP, **options})
        context.set_default_timeout(PATIENCE_MS)
        context.on("console", on_console)
        context.on("weberror", lambda error: complaints.append(f"exception: {error.error}"))
        context.on("response", on_response)
        contexts.append(context)
        return context

    yield new
    for context in contexts:
        context.close()


@pytest.fixture
def demo() -> Iterator[Demo]:
    """A running demo, which at the end stops when it is asked to and has logged nothing to worry about."""
    with Demo() as demo:
        yield demo
        demo.stop()


@pytest.fixture
def open_tab(demo: Demo, new_context: Callable[..., BrowserContext]) -> OpenTab:
    """Opens the demo's page in a new profile or, with `beside`, in another tab of the same one."""
    from playwright.sync_api import expect

    def open_page(*, beside: Page | None = None, **options: Any) -> Page:
        page = (new_context(**options) if beside is None else beside.context).new_page()
        page.goto(demo.url)
        expect(page.get_by_text("connected", exact=True)).to_be_visible()
        return page

    return open_page


@pytest.fixture
def page(open_tab: OpenTab) -> Page:
    """The demo's page on a desktop, connected."""
    return open_tab()


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """Where pictures go, for people to look at."""
    folder = ROOT / "build" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
