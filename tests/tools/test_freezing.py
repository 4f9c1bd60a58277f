"""What programs that freeze others need: imports that they can read, and a hook of PyInstaller's."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sockrpc
from sockrpc import freezing

SOURCE = Path(__file__).parents[2] / "src" / "sockrpc"

PROGRAM = """
import asyncio, importlib.resources, sockrpc

app = sockrpc.App()

@app.method("echo")
async def echo(call):
    return call.payload

async def main():
    async with sockrpc.serve(app, "127.0.0.1", 0) as server:
        async with sockrpc.connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/") as client:
            print((await client.call("echo", b"frozen")).decode())

print("SocketIo" in importlib.resources.files("sockrpc").joinpath("js/sockrpc.js").read_text())
asyncio.run(main())
"""


def imported_by_byte_code() -> set[str]:
    """The modules that may be meant by the imports of all .py files."""
    seen: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                seen |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                seen |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return seen


def test_every_compiled_module_is_imported_where_byte_code_is() -> None:
    # Only tests and benchmarks import testing/wire, by themselves.
    compiled = {
        f"sockrpc.{'.'.join(path.relative_to(SOURCE).with_suffix('').parts)}"
        for path in SOURCE.rglob("*.pyx")
    } - {"sockrpc.testing.books", "sockrpc.testing.wire"}
    assert len(compiled) > 20
    # A file that every program of sockrpc's imports, whatever it uses.
    text = Path(freezing.__file__).read_text(encoding="utf-8")
    named = {
        f"{node.module}.{alias.name}"
        for node in ast.parse(text).body
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("sockrpc")
        for alias in node.names
    }
    assert named == compiled | {"sockrpc.peer.thread_generator"}


def test_what_compiled_modules_import_is_imported_where_byte_code_is() -> None:
    hidden: set[str] = set()
    for path in SOURCE.rglob("*.pyx"):
        text = path.read_text(encoding="utf-8")
        hidden |= set(re.findall(r"^(?:from|import) ([\w.]+)(?: import .*)?$", text, re.MULTILINE))
    assert {"asyncio", "sockrpc.errors"} <= hidden
    assert hidden <= imported_by_byte_code()


def test_the_hook_is_where_pyinstaller_is_told_to_look() -> None:
    (folder,) = freezing.hook_dirs()
    assert [path.name for path in Path(folder).glob("hook-*.py")] == ["hook-sockrpc.py"]
    assert Path(folder).parent == Path(sockrpc.__file__).parent


@pytest.mark.packaging
@pytest.mark.skipif(sys.platform == "win32", reason="environments are made on a Unix only")
def test_a_frozen_program_runs_and_has_the_files_of_the_package(tmp_path: Path) -> None:
    entry_points = importlib.metadata.entry_points(group="pyinstaller40")
    assert "sockrpc.freezing:hook_dirs" in {each.value for each in entry_points}
    (tmp_path / "app.py").write_text(PROGRAM)
    # What no program of ours needs is not looked for.
    unneeded = [f"--exclude-module={name}" for name in ("tkinter", "numpy", "setuptools", "Cython", "pytest")]
    subprocess.run(
        [sys.executable, "-m", "PyInstaller", "--log-level=ERROR", "--noconfirm", *unneeded, "app.py"],
        cwd=tmp_path,
        env={**os.environ, "PYINSTALLER_CONFIG_DIR": str(tmp_path / "config")},
        check=True,
        timeout=100,
    )
    done = subprocess.run(
        [tmp_path / "dist" / "app" / "app"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.returncode) == ("True\nfrozen\n", 0), done.stderr
