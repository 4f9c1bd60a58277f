"""What `sockrpc serve` says of a program that cannot be imported: where it failed, and no frames of ours."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

import sockrpc
from sockrpc.process.importer import load
from tests.kit.command import POSIX, Command, run_command

APP = "import sockrpc\napp = sockrpc.App()\n"

# The text of module.py; where it failed, as (file, line) from the outside in; how the last line begins.
BROKEN = {
    "raises": (
        "def helper():\n    raise RuntimeError('not today')\nhelper()\n",
        [("module.py", 3), ("module.py", 2)],
        "RuntimeError: not today",
    ),
    "misses a module": ("import missing\n", [("module.py", 1)], "ModuleNotFoundError: No module named"),
    "misses a part": ("import missing.module\n", [("module.py", 1)], "ModuleNotFoundError: No module named"),
    "misses a name": ("from sockrpc import no\n", [("module.py", 1)], "ImportError: cannot import name 'no'"),
    "is no Python": ("x = 1\nif\n", [("module.py", 2)], "SyntaxError: "),
    "imports what is no Python": ("\nimport other\n", [("module.py", 2), ("other.py", 1)], "SyntaxError: "),
    "has a cause": (
        "try:\n    1 / 0\nexcept ArithmeticError as error:\n    raise ValueError('settings') from error\n",
        [("module.py", 2), ("module.py", 4)],
        "ValueError: settings",
    ),
    "uses us wrongly": (
        f"{APP}@app.method(timeout=0)\nasync def method(call): ...\n",
        [("module.py", 3)],
        "sockrpc.errors.UsageError: timeout is a positive number",
    ),
    "calls run": (
        f"{APP}sockrpc.run(app, port=0)\n",
        [("module.py", 3)],
        "sockrpc.errors.UsageError: run was",
    ),
    "calls run by name": (
        f"{APP}sockrpc.run('module:app', port=0)\n",
        [("module.py", 3)],
        "sockrpc.errors.UsageError: run was called while the program was imported ",
    ),
    "has a broken attribute": (
        "def __getattr__(name):\n    if name == 'app':\n        raise OSError('broken')\n",
        [("module.py", 3)],
        "OSError: broken",
    ),
}


@pytest.fixture(params=BROKEN)
def broken(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, list[tuple[str, int]], str]:
    """The folder of a module that cannot be imported, and what is to be shown of it."""
    text, places, last = BROKEN[request.param]
    (tmp_path / "module.py").write_text(text, encoding="utf-8")
    (tmp_path / "other.py").write_text("if\n", encoding="utf-8")
    return tmp_path, places, last


def judge(told: bytes, places: list[tuple[str, int]], last: str) -> None:
    lines = told.decode().splitlines()
    begin = lines.index("sockrpc: module:app cannot be imported")
    shown = re.findall(r'File "([^"]*)", line (\d+)', told.decode())
    assert [(Path(file).name, int(line)) for file, line in shown] == places
    assert lines[-1].startswith(last), lines
    assert "Traceback" in lines[begin + 1] or len(places) == 1
    # Once, however many workers have failed.
    assert told.count(lines[-1].encode()) == 1


def test_only_the_frames_of_the_program_are_shown(broken: tuple[Path, list[tuple[str, int]], str]) -> None:
    folder, places, last = broken
    done = run_command("serve", "module:app", "--port", "0", cwd=folder)
    assert (done.returncode, done.stdout) == (1, b"")
    judge(done.stderr, places, last)
    assert done.stderr.startswith(b"sockrpc: ")


# Each has two processes more; that the workers' processes tell the same is what is asked here.
@pytest.mark.parametrize("broken", ["raises", "is no Python", "calls run by name"], indirect=True)
def test_only_the_frames_of_the_program_are_shown_once_for_all_workers(
    broken: tuple[Path, list[tuple[str, int]], str],
) -> None:
    folder, places, last = broken
    done = run_command("serve", "module:app", "--port", "0", "--workers", "2", cwd=folder)
    assert (done.returncode, done.stdout) == (1, b"")
    judge(done.stderr, places, last)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("missing:app", "there is no module 'missing'"),
        ("module:missing", "has no 'missing'"),
        ("module:number", "serve takes an App or a coroutine function of one socket, not 42"),
    ],
)
def test_a_name_of_nothing_is_a_usage_error_also_of_workers(name: str, told: str, tmp_path: Path) -> None:
    """Without workers, tests/cli/test_cli.py has these and more."""
    (tmp_path / "module.py").write_text("number = 42\n")
    done = run_command("serve", name, "--port", "0", "--workers", "2", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    last = done.stderr.decode().splitlines()[-1]
    assert last.startswith("sockrpc: ")
    assert told in last
    assert b"Traceback" not in done.stderr


def test_no_frames_are_shown_of_the_search_for_a_file_that_may_be_running_already(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("1 / 0\n")
    # The command's own file has that name too.
    done = run_command("serve", "package.__main__:app", "--port", "0", cwd=tmp_path)
    assert done.returncode == 1
    shown = re.findall(r'File "([^"]*)"', done.stderr.decode())
    assert [Path(file).name for file in shown] == ["__init__.py"]


def test_a_program_that_ends_itself_has_the_last_word(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("raise SystemExit('there is no DATABASE_URL')\n")
    done = run_command("serve", "module:app", "--port", "0", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().splitlines() == ["there is no DATABASE_URL"]


def test_run_with_a_name_raises_what_the_program_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "failing_program.py").write_text("raise LookupError('as it is')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(LookupError, match="as it is"):
        sockrpc.run("failing_program:app")
    # It is no longer being imported.
    with pytest.raises(sockrpc.UsageError, match="MODULE:APP"):
        sockrpc.run("nothing")
    assert load("sockrpc.demo:make_app") is not None


@POSIX
def test_a_successor_that_can_not_import_the_program_is_logged_with_where(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(APP)
    with Command("serve", "module:app", "--port", "0", "--workers", "2", cwd=tmp_path) as server:
        assert server.line().endswith("(2 workers)")
        module.write_text("import missing_one\n")
        server.process.send_signal(signal.SIGHUP)
        server.wait_log("ModuleNotFoundError")
        (line,) = server.logged("before it served")
        assert line.count("module:app cannot be imported before it served; worker 1 (process") == 1
        frames = [line for line in server.log if line.lstrip().startswith("File ")]
        assert [line.partition(", ")[0].rpartition("/")[2] for line in frames] == ['module.py"']
        server.process.terminate()
        assert server.end() == 0
