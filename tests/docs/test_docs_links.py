"""Every link of every page in Markdown leads to a file, and to a heading of it.

The strict build (`make docs`) says the same of the site; this is what readers of the repository follow.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.kit.processes import ROOT

pytestmark = pytest.mark.docs

PAGES = sorted(
    page
    for folder in (".", "bench", "docs", "src/sockrpc/js", "tests")
    for page in (ROOT / folder).glob("**/*.md" if folder == "docs" else "*.md")
)


def without_code(text: str) -> str:
    return re.sub(r"^(```+).*?^\1$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What GitHub and MyST both make of the headings."""
    text = re.sub(r"^(```+).*?^\1$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings}


def links(page: Path) -> list[str]:
    text = without_code(page.read_text("utf-8"))
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]


def test_there_are_pages_with_links() -> None:
    assert {ROOT / name for name in ("README.md", "docs/index.md", "docs/reference/limits.md")} < set(PAGES)
    assert sum(len(links(page)) for page in PAGES) > 50


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
