"""Runs Autobahn's test-suite against the echo of either role, several processes side by side."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.kit.processes import ROOT

HERE = Path(__file__).parent
REPORTS = ROOT / "build" / "conformance"
AGENT = "sockrpc"
PATIENCE = 60.0

Part = Callable[[Path, Sequence[str]], None]


def wstest() -> list[str]:
    """The command that runs the suite."""
    command = shlex.split(os.environ.get("WSTEST", ""))
    assert command, "WSTEST names no command that runs wstest; `make conformance` and `make test` set it"
    return command


def python(program: str, *arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", str(HERE / program), *arguments]


def run_parts(role: str, part: Part, shares: Sequence[Sequence[str]]) -> list[Path]:
    """Run each share of the cases in a folder of its own; answers the folders, reports in them."""
    shutil.rmtree(REPORTS / role, ignore_errors=True)
    folders = [REPORTS / role / str(n) for n in range(len(shares))]
    for folder in folders:
        folder.mkdir(parents=True)
    with ThreadPoolExecutor(len(shares)) as pool:
        list(pool.map(part, folders, shares))
    return folders


def specify(folder: Path, name: str, cases: Sequence[str], **more: object) -> str:
    """Write what wstest is to do; answers the file."""
    file = folder / f"{name}.json"
    file.write_text(
        json.dumps({"outdir": str(folder), "cases": list(cases), "exclude-cases": [], **more}, indent=1)
    )
    return str(file)


@contextlib.contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[str]]:
    """A process, its output in a pipe and its errors in a file; ended at the end of the block."""
    with log.open("w") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=log.parent,
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def server_role(shares: Sequence[Sequence[str]]) -> list[Path]:
    """Our server, Autobahn's client."""
    REPORTS.mkdir(parents=True, exist_ok=True)
    with running(python("echo_server.py", "0"), REPORTS / "echo-server.log") as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        assert url.startswith("ws://"), (REPORTS / "echo-server.log").read_text()

        def part(folder: Path, cases: Sequence[str]) -> None:
            servers = [{"agent": AGENT, "url": url}]
            spec = specify(folder, "fuzzingclient", cases, servers=servers, options={"failByDrop": False})
            execute([*wstest(), "-m", "fuzzingclient", "-s", spec], folder)

        return run_parts("server", part, shares)


def client_role(shares: Sequence[Sequence[str]], at_a_time: int) -> list[Path]:
    """Our client, Autobahn's server."""

    def part(folder: Path, cases: Sequence[str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        url = f"ws://127.0.0.1:{port}"
        spec = specify(folder, "fuzzingserver", cases, url=url, options={"failByDrop": False})
        command = [*wstest(), "-m", "fuzzingserver", "-s", spec, "-u", "0"]
        with running(command, folder / "fuzzingserver.log") as server:
            wait_for(port, server)
            execute(python("echo_client.py", url, AGENT, str(at_a_time)), folder)

    return run_parts("client", part, shares)


def execute(command: list[str], folder: Path) -> None:
    """Run a command, which must succeed."""
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    (folder / "output.log").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]


def wait_for(port: int, process: subprocess.Popen[str]) -> None:
    """Wait until a process, not one of ours, listens."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert process.poll() is None, "the fuzzing server has ended"
            assert time.monotonic() < deadline, "the fuzzing server does not listen"
            time.sleep(0.05)
        else:
            return


def deal(cases: Sequence[str], count: int) -> list[list[str]]:
    """The cases in so many shares; neighbours, which cost alike, go to different ones."""
    return [list(cases[n::count]) for n in range(count)]
