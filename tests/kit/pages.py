"""The pages of the documentation, as tests read them: their blocks of code, and who runs which."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from tests.kit.processes import ROOT

DOCS = ROOT / "docs"


@dataclass
class Block:
    """A fenced block.

    Attributes:
        heading: The heading that it stands below, the page's own if it is above all others.
        language: What it is in: the word behind the fence, or the argument of a code-block.
        directive: The name of the directive, such as "literalinclude"; empty for a plain fence.
        argument: The directive's argument.
        options: The directive's options, such as its caption.
        code: What stands in it.
    """

    heading: str
    language: str
    code: str
    directive: str = ""
    argument: str = ""
    options: dict[str, str] = field(default_factory=dict)

    @property
    def caption(self) -> str:
        return self.options.get("caption", "")


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    text = page.read_text("utf-8")
    found = []
    for block in re.finditer(r"^(`{3,})([^\n]*)\n(.*?)^\1$", text, re.MULTILINE | re.DOTALL):
        before = re.sub(r"^(`{3,}).*?^\1$", "", text[: block.start()], flags=re.MULTILINE | re.DOTALL)
        headings = [(len(marks), name) for marks, name in re.findall(r"^(#+) (.*)$", before, re.MULTILINE)]
        heading = headings[-1][1] if headings else ""
        found.append(make_block(heading, block[2].strip(), block[3]))
    return found


def make_block(heading: str, info: str, body: str) -> Block:
    directive = re.fullmatch(r"\{([\w-]+)\}\s*(.*)", info)
    if directive is None:
        return Block(heading, info, body)
    name, argument = directive.groups()
    options: dict[str, str] = {}
    while option := re.match(r":([\w-]+):[ \t]*(.*)\n", body):
        options[option[1]] = option[2].strip()
        body = body[option.end() :]
    language = argument if name in ("code-block", "code") else options.get("language", "")
    return Block(heading, language, body.lstrip("\n"), name, argument, options)


def included_file(page: Path, block: Block) -> Path:
    """The file that a literalinclude shows."""
    return (page.parent / block.argument).resolve()
