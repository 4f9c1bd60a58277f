"""The programs in README.md, and examples/both_forms.py: as pasted, but for the port."""

from __future__ import annotations

import re

from tests.kit.processes import ROOT

PORT = "3000"


def block(heading: str, language: str) -> str:
    """The only block of code of that language below a heading of README.md."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    (code,) = re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return str(code)


def on_port(code: str, port: int) -> str:
    """The same program on another port, because the published one may be in use."""
    changed, times = re.subn(rf"(?<=[:=]){PORT}\b", str(port), code)
    assert times, code
    return changed


def without_last_line(code: str) -> str:
    return "".join(code.strip().splitlines(keepends=True)[:-1])
