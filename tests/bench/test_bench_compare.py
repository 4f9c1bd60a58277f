"""`python -m sockrpc.bench ab`: real processes, real rounds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import sockrpc
from sockrpc.bench.cli import main
from sockrpc.bench.comparison import BenchmarkError, Environment, MeasuringProcess
from sockrpc.bench.verdict import Attempt

pytestmark = pytest.mark.newest

# Workers import nothing that PYTHONPATH leads to; the package under test may stand there.
PACKAGES = Path(sockrpc.__file__).parents[1]
# As short as it can be: what is looked at here is not how steady the times are.
QUICK = ["--rounds", "4", "--round-ms", "0.5", "--limit", "1000"]

GOOD = """
import asyncio

def bench_plain():
    sum(range(100))

async def bench_coroutine():
    await asyncio.sleep(0)

def bench_prepared():
    numbers = list(range(100))
    yield lambda: sum(numbers)

async def bench_self_timed(bench):
    yield bench.self_timed(lambda: 0.25)
"""


def script(folder: Path, text: str) -> Path:
    path = folder / "script.py"
    path.write_text(text, encoding="utf-8")
    return path


def sides(base: Path | None = None, head: Path | None = None) -> list[str]:
    arguments = []
    for side, folder in (("base", base), ("head", head)):
        arguments += [f"--{side}", sys.executable, f"--{side}-path", str(PACKAGES)]
        if folder is not None:
            arguments += [f"--{side}-path", str(folder)]
    return arguments


def ab(path: Path, *more: str) -> int:
    return main(["ab", *sides(), "--script", str(path), *QUICK, *more])


def test_all_rounds_are_in_the_json_and_the_table_in_the_summary(tmp_path: Path) -> None:
    told, summary = tmp_path / "told.json", tmp_path / "summary.md"
    summary.write_text("before\n")
    code = ab(script(tmp_path, GOOD), "--json", str(told), "--markdown", str(summary), "--seed", "7")
    assert code == 0
    report = json.loads(told.read_text())
    assert (report["outcome"], report["exit_code"], report["seed"]) == ("ok", 0, 7)
    assert list(report["benchmarks"]) == ["plain", "coroutine", "prepared", "self_timed"]
    for benchmark in report["benchmarks"].values():
        (attempt,) = benchmark["attempts"]
        assert {side: len(rounds) for side, rounds in attempt["seconds"].items()} == {
            "base": 4,
            "control": 4,
            "head": 4,
        }
    own = report["benchmarks"]["self_timed"]["attempts"][0]["seconds"]
    assert set(own["head"]) == {0.25}
    assert report["versions"]["head"]["python"] == sys.version.split()[0]
    assert Path(report["versions"]["head"]["location"]) == PACKAGES / "sockrpc"
    assert report["machine"]["processor"]
    assert len(report["machine"]["load_average"] or [0, 0, 0]) == 3
    lines = summary.read_text("utf-8").splitlines()
    assert lines[0] == "before"
    assert sum(line.startswith("| plain |") for line in lines) == 1


def test_one_benchmark_can_be_chosen(tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    assert ab(script(tmp_path, GOOD), "--only", "prep", "--json", str(told)) == 0
    assert list(json.loads(told.read_text())["benchmarks"]) == ["prepared"]


def test_each_side_imports_its_own_code(tmp_path: Path) -> None:
    """What a guard is for: the same script, another server."""
    for side, work in (("base", 2000), ("head", 20_000)):
        (tmp_path / side).mkdir()
        (tmp_path / side / "their_server.py").write_text(f"def work():\n    sum(range({work}))\n")
    path = script(tmp_path, "import their_server\n\ndef bench_work():\n    their_server.work()\n")
    # A file beside the script would be the same for both sides: it is not found.
    (tmp_path / "their_server.py").write_text("raise SystemExit('imported from the folder of the script')\n")
    told = tmp_path / "told.json"
    arguments = sides(tmp_path / "base", tmp_path / "head")
    # Ten times as slow, and any noise below three times passes for none.
    settings = ["--rounds", "20", "--round-ms", "0.5", "--limit", "200", "--confirm", "5"]
    code = main(["ab", *arguments, "--script", str(path), *settings, "--json", str(told)])
    assert code == 1
    report = json.loads(told.read_text())
    assert report["benchmarks"]["work"]["outcome"] == "slower"
    assert len(report["benchmarks"]["work"]["attempts"]) >= 2


def test_a_benchmark_that_only_the_base_fails_leaves_the_question_open(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for side, name in (("base", "old"), ("head", "new")):
        (tmp_path / side).mkdir()
        (tmp_path / side / "their_server.py").write_text(f"def {name}():\n    pass\n")
    text = "import their_server\n\ndef bench_new():\n    their_server.new()\n\ndef bench_other():\n    pass\n"
    arguments = sides(tmp_path / "base", tmp_path / "head")
    assert main(["ab", *arguments, "--script", str(script(tmp_path, text)), *QUICK]) == 3
    assert "`new` could not be compared: base: open new: AttributeError" in capsys.readouterr().out


def test_a_benchmark_that_only_the_head_defines_is_named_as_new(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for side in ("base", "head"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "their_server.py").write_text(f"NEW = {side == 'head'}\n")
    text = (
        "import their_server\n\nif their_server.NEW:\n    def bench_new():\n        pass\n\n"
        "def bench_other():\n    pass\n"
    )
    arguments = sides(tmp_path / "base", tmp_path / "head")
    assert main(["ab", *arguments, "--script", str(script(tmp_path, text)), *QUICK]) == 0
    assert "`new` is new: only the head has it" in capsys.readouterr().out


WRONG = {
    "raises": ("def bench_it():\n    1 / 0\n", "ZeroDivisionError"),
    "does not parse": ("def bench_it(\n", "SyntaxError"),
    "raises in its set-up": ("async def bench_it():\n    1 / 0\n    yield\n", "ZeroDivisionError"),
    "yields what cannot be called": ("def bench_it():\n    yield 7\n", "7, which cannot be called"),
    "has to be async": ("def bench_it():\n    async def f(): ...\n    yield f\n", "make the benchmark async"),
    "is not told in seconds": (
        "def bench_it(bench):\n    yield bench.self_timed(lambda: None)\n",
        "returns seconds, not None",
    ),
    "exits": ("def bench_it():\n    raise SystemExit(5)\n", "the process ended at 'open it', exit code 5"),
    "has none": ("def it():\n    pass\n", "there is no function bench_*"),
    "has it twice": ("", "there are two benchmarks 'it'"),
}


@pytest.mark.tools
@pytest.mark.parametrize("why", WRONG)
def test_a_script_that_fails_is_told_with_what_it_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], why: str
) -> None:
    text, wanted = WRONG[why]
    path = script(tmp_path, text or "def bench_it(): pass\n")
    again = ["--script", str(path)] if not text else []
    assert ab(path, *again) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("sockrpc.bench: ")
    assert wanted in last


def test_what_a_script_prints_and_reads_does_not_disturb(tmp_path: Path) -> None:
    text = (
        "import sys\nprint('hello')\n\n"
        "def bench_it():\n    print('hello')\n    assert sys.stdin.read() == ''\n"
    )
    assert ab(script(tmp_path, text)) == 0


def test_a_benchmark_that_hangs_is_ended(tmp_path: Path) -> None:
    path = script(tmp_path, "import threading\n\ndef bench_it():\n    threading.Event().wait()\n")
    with MeasuringProcess(Environment(Path(sys.executable)).command((path,)), "head", timeout=1.0) as process:
        with pytest.raises(BenchmarkError, match="head: 'open it' took longer than 1 s"):
            process.ask("open", name="it")
        with pytest.raises(BenchmarkError, match="head: the process ended at 'names'"):
            process.ask("names")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--base", "nowhere"], "nowhere is neither a virtual environment nor a Python"),
        (["--base", __file__], "Permission denied"),
        (["--json", "no/such/folder/told.json", "--only", "plain"], "no/such/folder"),
        (["--base-path", "nowhere"], "nowhere is not a folder"),
        (["--script", "nowhere.py"], "nowhere.py is not a file"),
        (["--rounds", "3"], "at least 4 rounds"),
        (["--confirm", "0"], "1 confirmation"),
        (["--limit", "0"], "a limit above 0"),
        (["--limit", "nan"], "a limit above 0"),
    ],
)
def test_what_can_not_be_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], wanted: str
) -> None:
    assert ab(script(tmp_path, GOOD), *arguments) == 2
    assert wanted in capsys.readouterr().err


def test_a_virtual_environment_is_named_by_its_folder(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    with MeasuringProcess(
        Environment.at(venv).command((script(tmp_path, GOOD),)), "base", timeout=60.0
    ) as process:
        found = process.ask("versions")
        # It has no sockrpc at all, and a script that needs none runs there.
        assert (found["sockrpc"], found["location"]) == (None, None)
        assert Path(found["executable"]).is_relative_to(venv)
        process.ask("open", name="prepared")
        assert process.ask("round", name="prepared", loops=10) > 0


@pytest.mark.tools
def test_the_guard_proves_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """Equals pass, a slowed head is found in each benchmark, and a base that differs from itself is noise.

    The slowdown is a great one, and noise below half is taken for none: so no load on the machine decides.
    """
    settings = ["--unchanged", "1", "--slow", "300", "--limit", "50", "--round-ms", "1", "--confirm", "5"]
    code = main(["selftest", "--path", str(PACKAGES), *settings])
    assert code == 0, capsys.readouterr().out
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(";")[0] for line in lines] == [
        "unchanged: ok, wanted ok",
        "head slowed by 300 %: slower, wanted slower",
        "base differs from itself: inconclusive, wanted inconclusive",
    ]


@pytest.mark.tools
@pytest.mark.parametrize(
    ("part", "answer"), [("is_slower", False), ("is_slower", True), ("is_noisy", False)], ids=str
)
def test_a_guard_with_another_rule_does_not_pass_its_own_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, answer: bool
) -> None:
    monkeypatch.setattr(Attempt, part, property(lambda attempt: answer))
    path = script(tmp_path, "def bench_it():\n    sum(range(1000))\n")
    settings = ["--unchanged", "1", "--slow", "300", "--limit", "50", "--round-ms", "1"]
    assert main(["selftest", "--path", str(PACKAGES), "--script", str(path), *settings]) == 1


def test_a_slowdown_within_the_limit_proves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest", "--slow", "10"]) == 2
    assert "has to be above the limit" in capsys.readouterr().err
