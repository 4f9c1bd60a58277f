"""README's first page, served beside README's first server as README says, and used."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.kit.command import Served
from tests.kit.processes import ROOT, STOPPED
from tests.kit.readme import block, without_last_line


@pytest.fixture
def page(tmp_path: Path, new_context: Callable[..., BrowserContext]) -> Iterator[Page]:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (arguments,) = re.findall(r"`sockrpc (serve first:app --page first\.html)`", readme)
    server = without_last_line(block("A first server", "python"))
    (tmp_path / "first.py").write_text(server, encoding="utf-8")
    (tmp_path / "first.html").write_text(block("A first page", "html"), encoding="utf-8")
    with Served(*arguments.split(), cwd=tmp_path) as program:
        page = new_context().new_page()
        # Browsers ask for an icon of a page that names none.
        page.route("**/favicon.ico", lambda route: route.fulfill(status=204))
        page.goto(program.where)
        yield page
        program.process.terminate()
        assert program.end() == STOPPED
        assert not program.logged("ERROR")


@pytest.mark.runs_block("README.md", "A first page", "html")
def test_the_task_is_started_and_stopped(page: Page) -> None:
    (reason,) = re.findall(r"\.abort\(\"(.*?)\"\)", block("A first page", "html"))
    start, stop = (page.get_by_role("button").nth(which) for which in (0, 1))
    answer = page.get_by_role("status")
    start.click()
    stop.click()
    expect(answer).to_have_text(reason)
    start.click()
    expect(answer).to_have_text("done!")
