"""`python -m sockrpc.bench count`: instructions, counted by valgrind."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

import sockrpc
from sockrpc.bench.cli import main
from sockrpc.bench.counts import Counted
from sockrpc.bench.verdict import Outcome

pytestmark = pytest.mark.newest

PACKAGES = Path(sockrpc.__file__).parents[1]
VALGRIND = pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")


@pytest.mark.parametrize(("head", "slower"), [(103.0, False), (103.1, True), (50.0, False)])
def test_more_than_the_limit_is_slower_and_the_limit_is_not(head: float, slower: bool) -> None:
    assert (Counted("it", 1, 100.0, head).outcome(0.03) is Outcome.SLOWER) is slower


def count(folder: Path, base: int, head: int) -> list[str]:
    """The arguments that count a script whose server does so much on either side."""
    arguments = ["count", "--loops", "10", "--json", str(folder / "told.json")]
    for side, work in (("base", base), ("head", head)):
        (folder / side).mkdir()
        (folder / side / "their_server.py").write_text(f"WORK = {work}\n")
        arguments += [f"--{side}", sys.executable]
        arguments += [f"--{side}-path", str(PACKAGES), f"--{side}-path", str(folder / side)]
    script = folder / "script.py"
    script.write_text(
        "from their_server import WORK\n\ndef bench_it():\n    sum(range(WORK))\n\n"
        "def bench_other():\n    raise RuntimeError('was not asked for')\n"
    )
    return [*arguments, "--script", str(script), "--only", "it"]


@VALGRIND
@pytest.mark.tools
def test_instructions_tell_five_per_cent(tmp_path: Path) -> None:
    """Time could not: this is far below what noise makes of it."""
    assert main(count(tmp_path, 2000, 2100)) == 1
    told = json.loads((tmp_path / "told.json").read_text())
    # `other` is not run; it would fail.
    assert list(told["benchmarks"]) == ["it"]
    assert told["benchmarks"]["it"]["change"] == pytest.approx(1.05, abs=0.01)
    # An addition in the loop of `sum` takes some instructions at least.
    assert told["benchmarks"]["it"]["base"] > 2000 * 5


def test_without_valgrind_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(count(tmp_path, 1, 1)) == 2
    assert "apt-get install valgrind" in capsys.readouterr().err


def test_nothing_to_count_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*count(tmp_path, 1, 1), "--only", "no such"]) == 2
    assert "there is nothing to count" in capsys.readouterr().err
