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

# Worked through as a reader does it: what is typed, and what is printed.
PLAYED = "test_what_the_page_shows_is_what_happens"
PLAYED_BY = {
    "docs/tutorial/set-up.md": PLAYED,
    "docs/tutorial/request-and-response.md": PLAYED,
    "docs/tutorial/notifications.md": PLAYED,
    "docs/tutorial/cancellation.md": PLAYED,
    "docs/tutorial/broadcasting.md": PLAYED,
    "docs/howto/authentication.md": "test_authentication_as_its_page_shows_it",
    "docs/howto/tls.md": "test_tls_as_its_page_shows_it",
}

# Who runs the files of examples/, by the beginning of their paths.
RUN_BY = {
    "authentication.py": "test_authentication_as_its_page_shows_it",
    "behind_a_proxy.py": "test_calls_resets_and_answers_go_through",
    "blocking.py": "test_a_process_is_killed_by_a_reset",
    "both_forms.py": "test_the_example_serves_the_tutorial_in_both_forms",
    "client_certificates.py": "test_the_example_knows_its_users_by_their_certificates",
    "haproxy.cfg": "test_calls_resets_and_answers_go_through",
    "migrating/from_grpc.py": "test_what_was_a_grpc_server",
    "migrating/from_socketio.py": "test_what_was_a_socketio_server",
    "nginx.conf": "test_calls_resets_and_answers_go_through",
    "rights.py": "test_a_right_is_asked_for_by_the_decorator",
    "systemd/": "test_systemd_finds_nothing_wrong_with_the_units",
    "tls.py": "test_a_renewed_certificate_is_taken_up_by_sighup",
    "tutorial/": PLAYED,
    "undo.py": "test_a_booking_whose_call_is_reset_is_undone",
}
ONLY_COMPILED = {"migrating/grpc_server.py", "migrating/socketio_server.py"}

# Who runs the plain blocks of a page: below which heading, in which language.
BLOCKS_RUN_BY = {
    ("README.md", "sockrpc", "sh"): [
        "test_the_commands_on_the_first_screen_are_targets_of_make",
        "test_ctrl_c_in_a_second_terminal_aborts_the_demo_s_task",
    ],
    ("README.md", "A first server", "python"): ["test_the_first_client_calls_the_first_server"],
    ("README.md", "A first client", "python"): ["test_the_first_client_calls_the_first_server"],
    ("README.md", "A first page", "html"): ["test_the_task_is_started_and_stopped"],
    ("src/sockrpc/js/README.md", "sockrpc for browsers and Node", "js"): [
        "test_the_example_of_the_readme_runs"
    ],
    ("docs/reference/metrics.md", "Alerts", "yaml"): ["test_alerts_ask_for_metrics_that_there_are"],
    # Every block of the page, below whatever heading.
    ("docs/howto/testing.md", "", "python"): ["test_its_tests_pass_as_a_suite_of_their_own"],
    ("docs/howto/guarding-performance.md", "Five minutes in an empty folder", "python"): [
        "test_the_slower_change_is_found_and_nothing_else"
    ],
    ("docs/howto/guarding-performance.md", "Five minutes in an empty folder", "sh"): [
        "test_the_slower_change_is_found_and_nothing_else"
    ],
    ("docs/howto/guarding-performance.md", "In your tests", "python"): [
        "test_the_fixture_works_in_a_test_suite_of_its_own"
    ],
}


def names_of_tests() -> set[str]:
    return {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


TESTS = names_of_tests()


def relative(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_each_block_is_run_or_says_that_it_is_an_excerpt(page: Path) -> None:
    for block in blocks(page):
        if block.directive in NO_CODE or block.caption.startswith("Excerpt"):
            continue
        shown = f"{relative(page)}, {block.heading}: {block.code[:60]!r}"
        if block.directive == "literalinclude":
            file = included_file(page, block).relative_to(EXAMPLES).as_posix()
            assert any(file.startswith(known) for known in RUN_BY), shown
            assert file not in ONLY_COMPILED, shown
        elif block.language == "console" or block.caption in (LOG_CAPTION, SERVER_CAPTION):
            assert relative(page) in PLAYED_BY, shown
        else:
            places = {(relative(page), heading, block.language) for heading in (block.heading, "")}
            assert places & BLOCKS_RUN_BY.keys(), shown


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


def test_whoever_is_said_to_run_a_block_is_a_test() -> None:
    listed = {
        *PLAYED_BY.values(),
        *RUN_BY.values(),
        *(name for names in BLOCKS_RUN_BY.values() for name in names),
    }
    assert listed - TESTS == set()


def test_whatever_is_said_to_be_run_is_there() -> None:
    assert [name for name in (*RUN_BY, *ONLY_COMPILED) if not (EXAMPLES / name).exists()] == []
    assert [name for name in PLAYED_BY if not (ROOT / name).is_file()] == []
    shown = {
        (relative(page), heading, block.language)
        for page in PAGES
        for block in blocks(page)
        for heading in (block.heading, "")
    }
    assert set(BLOCKS_RUN_BY) <= shown


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
