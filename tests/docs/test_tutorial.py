"""docs/tutorial: each page worked through as its reader does it. Its pages are in tests/browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.kit.command import POSIX
from tests.kit.pages import DOCS, blocks
from tests.kit.processes import ROOT, reserved_port
from tests.kit.transcript import Transcript

pytestmark = [pytest.mark.docs, POSIX]

WITH_A_PAGE = ("set-up", "request-and-response", "notifications", "cancellation", "broadcasting")
# The JavaScript client speaks v0.1, which has none of this.
WITHOUT_A_PAGE = ("errors", "streaming", "server-calls-back")
ORDER = WITH_A_PAGE + WITHOUT_A_PAGE
PROGRAMS = ROOT / "examples" / "tutorial"


def page(name: str) -> Path:
    return DOCS / "tutorial" / f"{name}.md"


@pytest.mark.runs("docs/tutorial/", "examples/tutorial/")
@pytest.mark.parametrize("name", ORDER)
def test_what_the_page_shows_is_what_happens(name: str, tmp_path: Path) -> None:
    with reserved_port() as port:
        transcript = Transcript(page(name), tmp_path, port)
        transcript.play()
    # Each page starts a server, and uses it from the command line and by its program.
    assert [line for line in transcript.typed if line.startswith("sockrpc serve server:app")]
    assert "python client.py" in transcript.typed
    assert len(transcript.typed) >= 3


def test_the_pages_are_in_the_order_of_the_published_tutorial() -> None:
    (contents,) = [block.code for block in blocks(page("index")) if block.directive == "toctree"]
    assert tuple(contents.split()) == ORDER
    listed = re.findall(r"^\d\. \[.*\]\((.*)\.md\)", page("index").read_text("utf-8"), re.MULTILINE)
    assert tuple(listed) == ORDER


@pytest.mark.parametrize("name", ORDER)
def test_each_page_shows_its_programs_whole(name: str) -> None:
    folder = name.replace("-", "_")
    programs = {"server.py", "client.py"} | ({"page.html"} if name in WITH_A_PAGE else set())
    shown = [block for block in blocks(page(name)) if block.directive == "literalinclude"]
    assert {block.argument for block in shown} == {
        f"../../examples/tutorial/{folder}/{file}" for file in programs
    }
    assert all(block.options.keys() == {"language"} for block in shown)
    assert {file.name for file in (PROGRAMS / folder).iterdir() if file.is_file()} == programs
