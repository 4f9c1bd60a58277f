"""docs/howto/testing.md, done in an empty folder as a reader does it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sockrpc
from tests.kit.processes import ROOT

pytestmark = pytest.mark.docs

TEXT = (ROOT / "docs" / "howto" / "testing.md").read_text("utf-8")
PACKAGES = Path(sockrpc.__file__).parents[1]


def save_all(folder: Path) -> None:
    """Each block goes to the file that was named last before it; the fixture's test is for the tests."""
    name = ""
    files: dict[str, str] = {}
    for named, code in re.findall(
        r"Save it as `([^`]+)`|^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL
    ):
        if named:
            name = named
        else:
            files[name] = files.get(name, "") + "\n" + code
            if name == "conftest.py":
                name = "test_shop.py"
    assert list(files) == ["shop.py", "test_shop.py", "conftest.py"]
    for each, text in files.items():
        (folder / each).write_text(text, encoding="utf-8")


@pytest.mark.runs_block("docs/howto/testing.md", "", "python")
def test_its_tests_pass_as_a_suite_of_their_own(tmp_path: Path) -> None:
    save_all(tmp_path)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-W", "error"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(PACKAGES)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert f"{TEXT.count('def test_')} passed" in done.stdout
