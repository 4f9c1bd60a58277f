"""Reference that is taken from the sources when the pages are built, and so can not drift from them.

``{command-help} serve`` is what ``sockrpc serve --help`` prints; without a command, ``sockrpc --help``.
``{typescript} FILE`` is a file of TypeScript declarations: each with its own comment, as text.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, field
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from sockrpc import cli

COLUMNS = 96

COMMENT = re.compile(r"\s*/\*\*(.*?)\*/\s*", re.DOTALL)


@dataclass
class Declaration:
    """A declaration, what its comment says, and the members in its braces."""

    code: str
    comment: str
    members: list[Declaration] = field(default_factory=list)

    @property
    def name(self) -> str:
        found = re.match(r"(?:export )?(?:type|interface|class|readonly )?\s*([\w$]+)", self.code)
        assert found is not None, self.code
        return found[1]


def parse_declarations(text: str) -> list[Declaration]:
    """The declarations of a file or of a body, in order; what has no comment of its own has an empty one."""
    found: list[Declaration] = []
    rest = text.strip()
    while rest:
        comment = ""
        if told := COMMENT.match(rest):
            comment = re.sub(r"^ *\* ?", "", told[1], flags=re.MULTILINE).strip()
            rest = rest[told.end() :]
        end = end_of_declaration(rest)
        code, rest = rest[:end].strip(), rest[end:].lstrip()
        head, brace, body = code.partition(" {\n")
        if brace:
            members = parse_declarations(body.rpartition("}")[0])
            found.append(Declaration(head, comment, members))
        else:
            found.append(Declaration(code, comment))
    return found


def end_of_declaration(text: str) -> int:
    """Behind the semicolon, or the closing brace of a body, that ends the first declaration."""
    depth = 0
    for index, each in enumerate(text):
        depth += (each in "{(") - (each in "})")
        if depth == 0 and (each == ";" or (each == "}" and text[index + 1 : index + 2] in ("", "\n"))):
            return index + 1
    raise ValueError(f"a declaration without an end: {text[:60]!r}")


def comment_as_markdown(comment: str) -> str:
    """The text of a comment: what it throws as a list, its example as code."""
    text, *tags = re.split(r"^@(?=throws|example)", comment, flags=re.MULTILINE)
    throws: list[str] = []
    example = ""
    for tag in tags:
        kind, _, told = tag.partition(" ") if tag.startswith("throws") else tag.partition("\n")
        if kind == "throws":
            error, _, why = re.sub(r"\s+", " ", told).strip().partition(" ")
            throws.append(f"- `{error}`: {why}")
        else:
            example = f"```js\n{told.strip()}\n```"
    listed = "Throws:\n\n" + "\n".join(throws) if throws else ""
    return "\n\n".join(part for part in (text.strip(), listed, example) if part)


class CommandHelp(SphinxDirective):
    """What ``--help`` prints."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(cli.__file__)
        parser = cli.make_parser()
        if self.arguments:
            (commands,) = (
                action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
            )
            parser = commands.choices[self.arguments[0]]
        formatter = parser.formatter_class
        parser.formatter_class = lambda prog: formatter(prog, width=COLUMNS)  # type: ignore[assignment,misc]
        # Python 3.14 colours it where it believes that it prints to a terminal.
        parser.color = False  # type: ignore[attr-defined,unused-ignore]
        text = parser.format_help()
        return [nodes.literal_block(text, text, language="text")]


class TypeScript(SphinxDirective):
    """The declarations of a file, each under a heading of its own."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        relative, file = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(relative)
        lines: list[str] = []
        for declaration in parse_declarations(Path(file).read_text("utf-8")):
            lines += [f"## `{declaration.name}`", ""]
            if not declaration.members:
                lines += ["```ts", declaration.code, "```", ""]
            lines += [comment_as_markdown(declaration.comment), ""]
            for member in declaration.members:
                lines += [f"### `{member.name}`", "", "```ts", member.code, "```", ""]
                lines += [comment_as_markdown(member.comment), ""]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def show_examples_as_code(
    app: Sphinx, what: str, name: str, of: object, options: object, lines: list[str]
) -> None:
    """Has what docstrings indent behind an empty line rendered as code."""
    if what in ("attribute", "property"):
        # Napoleon takes what stands before a colon in the first line for a type; an empty comment has none.
        lines[:0] = ["..", ""]
    for index in range(len(lines) - 1, 0, -1):
        begins = lines[index].startswith("    ") and not lines[index - 1].strip()
        if begins and not lines[max(0, index - 2)].startswith("    "):
            lines[index:index] = ["::", ""]


def setup(app: Sphinx) -> dict[str, bool]:
    # Before napoleon, to which sections are indented in the same way but without an empty line.
    app.connect("autodoc-process-docstring", show_examples_as_code, priority=400)
    app.add_directive("command-help", CommandHelp)
    app.add_directive("typescript", TypeScript)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
