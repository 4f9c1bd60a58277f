"""Each block of code is run by a test or says that it is an excerpt; each test that a page names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.kit.pages import DOCS, blocks, included_file
from tests.kit.processes import ROOT
from tests.kit.programs import load
from tests.kit.transcript import LOG_CAPTION, SERVER_CAPTION, Transcript

pytestmark = pytest.mark.docs

PAGES = [
    *sorted(ROOT.glob("*.md")),
    ROOT / "tests" / "README.md",
    ROOT / "src" / "sockrpc" / "js" / "README.md",
    *sorted(DOCS.rglob("*.md")),
]
EXAMPLES = ROOT / "examples"

# What these show, the build takes from elsewhere.
NO_CODE = {"toctree", "include", "eval-rst", "command-help", "typescript"}


def written_tests() -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [
        node
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]


WRITTEN = written_tests()
TESTS = {test.name for test in WRITTEN}


def marked(name: str) -> list[list[str]]:
    """The arguments of each marker of this name, of all tests."""
    return [
        [ast.literal_eval(argument) for argument in mark.args]
        for test in WRITTEN
        for mark in test.decorator_list
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == f"pytest.mark.{name}"
    ]


# Files of examples/, pages that are worked through as a reader does it, and folders of either.
RUN = tuple(sorted(place for places in marked("runs") for place in places))
# Plain blocks: of a page, below a heading ("": below any), in a language.
RUN_BLOCKS = {(page, heading, language) for page, heading, language in marked("runs_block")}


def relative(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_each_block_is_run_or_says_that_it_is_an_excerpt(page: Path) -> None:
    for block in blocks(page):
        if block.directive in NO_CODE or block.caption.startswith("Excerpt"):
            continue
        shown = f"{relative(page)}, {block.heading}: {block.code[:60]!r}"
        if block.directive == "literalinclude":
            assert relative(included_file(page, block)).startswith(RUN), shown
        elif block.language == "console" or block.caption in (LOG_CAPTION, SERVER_CAPTION):
            assert relative(page).startswith(RUN), shown
        else:
            assert RUN_BLOCKS & {
                (relative(page), heading, block.language) for heading in (block.heading, "")
            }, shown


@pytest.mark.parametrize("page", [page for page in PAGES if page.is_relative_to(DOCS)], ids=relative)
def test_what_only_the_build_includes_is_linked(page: Path) -> None:
    """Who reads the page in the repository sees an empty box there."""
    text = page.read_text("utf-8")
    for block in blocks(page):
        assert block.directive != "literalinclude" or f"]({block.argument})" in text, block.argument


@pytest.mark.parametrize("page", [page for page in PAGES if page.is_relative_to(DOCS)], ids=relative)
def test_no_code_stands_in_an_indented_block(page: Path) -> None:
    text = re.sub(r"^(```+).*?^\1$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert re.findall(r"\n\n    \S.*", text) == []


def test_what_tests_say_that_they_run_is_there() -> None:
    assert len(RUN) > 15
    assert [place for place in RUN if not (ROOT / place).exists()] == []
    assert [place for place in RUN if place.endswith("/") != (ROOT / place).is_dir()] == []
    shown = {
        (relative(page), heading, block.language)
        for page in PAGES
        for block in blocks(page)
        for heading in (block.heading, "")
    }
    assert len(RUN_BLOCKS) > 5
    assert shown >= RUN_BLOCKS


def test_each_example_is_shown_or_linked() -> None:
    shown = {
        included_file(page, block)
        for page in PAGES
        for block in blocks(page)
        if block.directive == "literalinclude"
    }
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    files = [file for file in EXAMPLES.rglob("*") if file.is_file() and file.suffix != ".pyc"]
    assert len(files) > 20
    assert [file.name for file in files if file not in shown and f"({relative(file)})" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_each_test_that_a_page_names_is_there(page: Path) -> None:
    named = set(re.findall(r"\btest_\w+(?!\w*\.py)\b", page.read_text("utf-8")))
    files = {file.stem for file in (ROOT / "tests").rglob("test_*.py")}
    readers_own = {name for block in blocks(page) for name in re.findall(r"\btest_\w+", block.code)}
    assert named - TESTS - files - readers_own == set()


def test_each_guarantee_of_cancellation_is_held_by_tests() -> None:
    text = (DOCS / "explanation" / "cancellation.md").read_text("utf-8")
    table = text.partition("## Guaranteed")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("|")][2:]
    assert len(rows) >= 15
    for promise, tests in rows:
        assert promise.strip()
        assert re.findall(r"`(\w+)`", tests), promise


def test_the_diagrams_are_what_their_sources_draw() -> None:
    drawn = load("../docs/diagrams/draw").rendered()
    assert {file: file.read_text("utf-8") for file in drawn} == drawn
    assert set(drawn) == set((DOCS / "diagrams").glob("*.svg"))


def test_each_diagram_is_shown_with_a_text_in_its_place() -> None:
    shown = {}
    for page in DOCS.rglob("*.md"):
        for text, file in re.findall(r"!\[([^\]]*)\]\((\S+\.svg)\)", page.read_text("utf-8")):
            shown[(page.parent / file).resolve()] = text
    assert set(shown) == set((DOCS / "diagrams").glob("*.svg"))
    assert [file.name for file, text in shown.items() if len(text) < 40] == []


@pytest.mark.parametrize(
    "text",
    [
        "```console\nsockrpc call\n```\n",
        "```console\n$ sockrpc serve server:app\nhttp://127.0.0.1:9999/\n```\n",
        "```console\n$ sockrpc --version\nsockrpc 99\n```\n",
    ],
    ids=["no prompt", "another line of the server", "another output"],
)
def test_a_box_that_shows_what_does_not_happen_fails(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    (tmp_path / "server.py").write_text("import sockrpc\napp = sockrpc.App()\n", encoding="utf-8")
    with pytest.raises(AssertionError):
        Transcript(page, tmp_path, 0).play()
