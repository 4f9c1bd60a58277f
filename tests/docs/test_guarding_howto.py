"""docs/howto/guarding-performance.md, done in an empty folder as a reader does it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import sockrpc
from sockrpc.bench.cli import EXIT_CODES, EXIT_INTERRUPTED, EXIT_USAGE, make_parser
from tests.kit.flags import commands_of, flags_of
from tests.kit.processes import ROOT

# Not about versions of Python: on one interpreter only.
pytestmark = pytest.mark.tools

TEXT = (ROOT / "docs" / "howto" / "guarding-performance.md").read_text("utf-8")
PACKAGES = Path(sockrpc.__file__).parents[1]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def save_all(folder: Path) -> None:
    names = ["base/shop.py", "head/shop.py", "bench_shop.py", "conftest.py", "test_shop.py"]
    # Each file but the last two is named in the text before its block.
    assert re.findall(r"[Ss]ave (?:it|them) as `([^`]+)`", TEXT) == names[:3]
    for name, code in zip(names, blocks("python"), strict=True):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code, encoding="utf-8")


def commands() -> list[list[str]]:
    (block,) = blocks("sh")
    return [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]


@pytest.mark.runs_block("docs/howto/guarding-performance.md", "Five minutes in an empty folder", "python")
@pytest.mark.runs_block("docs/howto/guarding-performance.md", "Five minutes in an empty folder", "sh")
def test_the_slower_change_is_found_and_nothing_else(tmp_path: Path) -> None:
    save_all(tmp_path)
    command = commands()[-1]
    assert command[1:4] == ["-m", "sockrpc.bench", "ab"]
    # The environments that the lines before it make from the package index: here, the one under test.
    assert [command[0], command[5], command[7]] == ["head/venv/bin/python", "base/venv", "head/venv"]
    command[0] = command[5] = command[7] = sys.executable
    command += [text for side in ("base", "head") for text in (f"--{side}-path", str(PACKAGES))]
    done = subprocess.run(
        [command[0], "-W", "error", *command[1:], "--confirm", "5"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    rows = re.findall(r"^\| (\w+) \|.* (\w+)(?: \(\d attempts\))? \|$", done.stdout, re.MULTILINE)
    assert dict(rows)["prices"] == "slower", done
    assert dict(rows)["reset_to_abort"] != "slower", done
    # Noise about the other one is all that may make it inconclusive.
    assert done.returncode == (1 if dict(rows)["reset_to_abort"] == "ok" else 3), done


@pytest.mark.runs_block("docs/howto/guarding-performance.md", "In your tests", "python")
def test_the_fixture_works_in_a_test_suite_of_its_own(tmp_path: Path) -> None:
    save_all(tmp_path)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-W", "error", "test_shop.py"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(PACKAGES), str(tmp_path / "base")])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done
    assert "1 passed" in done.stdout


def test_each_command_and_each_flag_is_named_with_its_default() -> None:
    table = dict(re.findall(r"^\| (`--[^|]*) \|([^|]*)\|", TEXT, re.MULTILINE))
    documented: dict[str, str] = {}
    for flags, defaults in table.items():
        names = re.findall(r"--[\w-]+", flags)
        values = [value.strip() for value in defaults.split(",")] * (1 if "," in defaults else len(names))
        documented |= dict(zip(names, values, strict=True))
    for command, parser in commands_of(make_parser()).items():
        assert f"`python -m sockrpc.bench {command}`" in TEXT
        for action in flags_of(parser):
            (flag, *_) = [each for each in action.option_strings if each.startswith("--")]
            assert f"`{flag}`" in TEXT or flag == "--help", (command, flag)
            if command == "ab" and flag != "--help":
                default = f"{action.default:g}" if isinstance(action.default, int | float) else None
                shown = documented.pop(flag)
                assert shown == (default or ("drawn" if flag == "--seed" else "")), flag
    assert documented == {}


def test_the_exit_codes_are_the_documented_ones() -> None:
    table = TEXT.partition("| exit code |")[2].partition("\n\n")[0]
    codes = [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)]
    assert codes == sorted({*EXIT_CODES.values(), EXIT_USAGE, EXIT_INTERRUPTED})
