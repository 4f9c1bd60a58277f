"""Comments and docstrings of the package are plain English, as far as a pattern can tell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "src" / "sockrpc"
SUFFIXES = {".py", ".pyi", ".pyx", ".pxd", ".js"}

# Strings are matched so that a comment mark inside one begins no comment.
PYTHON = re.compile(r'("""[\s\S]*?"""|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\')|((?:#.*\n?[ \t]*)+)')
SCRIPT = re.compile(r'("(?:\\.|[^"\\\n])*"|`[^`]*`)|((?:(?<![:\w])//.*\n?[ \t]*)+|/\*[\s\S]*?\*/)')
FIELD = re.compile(r"^\s+\w+: ", re.MULTILINE)
AVOIDED = re.compile(r"\b(can not|whoever|tells of|is told)\b", re.IGNORECASE)
FRAGMENT = re.compile(r"(?:What|Who|Where|Not|One|Of)\b[^.?!]*(?P<end>.?)", re.IGNORECASE)


def prose(text: str, suffix: str) -> Iterator[str]:
    """Each comment, and each docstring with its descriptions of arguments apart."""
    for match in (SCRIPT if suffix == ".js" else PYTHON).finditer(text):
        string, comment = match.groups()
        before = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]
        if comment:
            yield re.sub(r"^[ \t]*(?:#|//|/?\*+/?) ?", "", comment, flags=re.MULTILINE).strip()
        elif string.startswith('"""') and not before.strip():
            yield from (each.strip() for each in FIELD.split(string.strip('"')))


def faults(text: str, suffix: str) -> list[str]:
    return [
        each
        for each in prose(text, suffix)
        if AVOIDED.search(each) or ((begin := FRAGMENT.match(each)) and begin["end"] != "?")
    ]


def test_comments_and_docstrings_are_plain_english() -> None:
    paths = [path for path in SOURCES.rglob("*") if path.suffix in SUFFIXES]
    files = {path.relative_to(SOURCES).as_posix(): path for path in paths}
    found = {name: faults(path.read_text("utf-8"), path.suffix) for name, path in files.items()}
    assert len(found) > 100
    assert {name: each for name, each in found.items() if each} == {}


@pytest.mark.parametrize(
    "planted", ["What it holds.", "Not before it ends.", "It can not end.", "of whoever asks"]
)
def test_a_planted_one_is_found(planted: str) -> None:
    text = (
        f'x = "# What"\n# What is it?\ndef f():\n    """Do it.\n\n    Args:\n        a: {planted}\n    """\n'
    )
    assert faults(text, ".py") == faults(f"y = 1  # {planted}\n", ".pyx") == [planted]
    assert faults(f'"// What"; // {planted}\n', ".js") == [planted]
