"""How `--workers N` and `run("module:app", workers=N)` begin, what they say, and what is wrong with them."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import socket
import ssl
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

import sockrpc
from tests.kit.command import POSIX, Command, failure, run_command
from tests.kit.workers import ONCE, TWO, Workers, path_with

pytestmark = POSIX


@ONCE
def test_systemd_is_told_once_that_all_are_ready(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.settimeout(60)
        told.bind(str(tmp_path / "notify"))
        with Workers(tmp_path, *TWO, NOTIFY_SOCKET=str(tmp_path / "notify")) as server:
            assert told.recv(100) == b"READY=1"
            server.process.terminate()
            assert told.recv(100) == b"STOPPING=1"
            assert server.end() == 0
        told.setblocking(False)
        with pytest.raises(BlockingIOError):
            told.recv(100)


@ONCE
def test_the_line_in_json(tmp_path: Path) -> None:
    with Workers(tmp_path, *TWO, "--json") as server:
        told = json.loads(server.line_told)
        assert list(told) == ["listening", "workers"]
        assert told["workers"] == 2
        assert server.stop() == 0


@ONCE
def test_a_page_and_tls_come_from_every_worker(tmp_path: Path) -> None:
    authority = trustme.CA()
    pair = authority.issue_cert("localhost").private_key_and_cert_chain_pem
    pair.write_to_path(str(tmp_path / "both.pem"))
    (tmp_path / "page.html").write_text("<p>here</p>")
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with Workers(tmp_path, *TWO, "--ssl-certfile", "both.pem", "--page", "page.html") as server:
        port = server.line_told.partition("/ ")[0].rpartition(":")[2]
        assert server.line_told.startswith("https://")
        with urllib.request.urlopen(f"https://localhost:{port}/", context=trusting) as response:
            assert response.read() == b"<p>here</p>"
        assert server.stop() == 0


# What goes wrong


@pytest.mark.parametrize(
    ("app", "code", "why"),
    [
        ("absent:app", 2, "there is no module 'absent'"),
        pytest.param("served:absent", 2, "has no 'absent'", marks=ONCE),
        pytest.param("served:os", 2, "an App or a coroutine function", marks=ONCE),
        ("broken:app", 1, "LookupError: no such luck"),
    ],
)
def test_an_app_that_can_not_be_loaded_ends_everything(tmp_path: Path, app: str, code: int, why: str) -> None:
    (tmp_path / "served.py").write_text("import os")
    (tmp_path / "broken.py").write_text("raise LookupError('no such luck')")
    done = run_command("serve", app, *TWO, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, b"")
    last = done.stderr.decode().splitlines()[-1]
    # A defect of the program is shown by its own traceback.
    assert last.startswith("sockrpc: ") == (code == 2)
    assert why in last


def test_a_port_on_which_somebody_listens_is_not_taken(tmp_path: Path) -> None:
    with Workers(tmp_path, *TWO) as server:
        port = server.uri.rstrip("/").rpartition(":")[2]
        for count in ("1", "2"):
            told = failure(
                run_command("serve", "served:app", "--port", port, "--workers", count, cwd=tmp_path), 1
            )
            assert "address already in use" in told.lower()


def test_no_workers_are_a_usage_error(tmp_path: Path) -> None:
    told = failure(run_command("serve", "served:app", "--workers", "0", cwd=tmp_path), 2)
    assert "at least 1, not 0" in told


@ONCE
def test_a_program_that_starts_workers_when_it_is_imported_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import sockrpc\nsockrpc.run('served:app', port=0, workers=2)\n")
    with Command(program=(str(tmp_path / "program.py"),), cwd=tmp_path) as program:
        assert program.end() == 1
        assert program.logged('put it under `if __name__ == "__main__":`')
        assert "before it served" in program.log[-1]


run: Any = sockrpc.run


MISTAKES: list[tuple[Callable[[], object], str]] = [
    (lambda: run(sockrpc.App(), workers=2), r"write run\('module:app'\)"),
    (lambda: run("served:app", workers=0), "at least 1, not 0"),
    (lambda: run("served:app", workers=2, loop="nonsense"), "not 'nonsense'"),
    (lambda: run("served:app", workers=2, max_in_flight=0), "max_in_flight"),
    (lambda: run("served:app", workers=2, port=0, uds="path"), "one of"),
    (lambda: run("served:app", workers=2, inspect_path="top"), "needs {pid}"),
    (
        lambda: run("served:app", workers=2, on_started=lambda server: None),
        "on_started .* a function of a module",
    ),
    (
        lambda: run("served:app", workers=2, ssl=ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)),
        "ssl .* a function that makes the context",
    ),
]


@pytest.mark.parametrize(("mistake", "told"), MISTAKES, ids=[told for _, told in MISTAKES])
def test_a_usage_error_comes_before_any_process(mistake: Callable[[], object], told: str) -> None:
    with pytest.raises(sockrpc.UsageError, match=told):
        mistake()
    assert multiprocessing.active_children() == []


async def test_workers_can_not_be_started_in_a_running_loop() -> None:
    with pytest.raises(sockrpc.UsageError, match="running event loop"):
        sockrpc.run("served:app", port=0, workers=2)


@ONCE
def test_run_takes_a_name_and_calls_on_started_in_each_worker(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("""
import os
import sys
import sockrpc

def started(server):
    print("http://127.0.0.1:%d/" % server.sockets[0].getsockname()[1], os.getpid(), flush=True)

if __name__ == "__main__":
    sockrpc.run("served:app", port=0, workers=int(sys.argv[1]), on_started=started)
""")
    options: Any = {"program": tmp_path / "program.py", "PYTHONPATH": path_with(tmp_path)}
    with Workers(tmp_path, "1", **options) as server:
        assert server.line_told.endswith(f" {server.process.pid}")
        assert server.pids(1) == {server.process.pid}
        assert server.stop() == 0
    with Workers(tmp_path, "2", **options) as server:
        told = {line.partition(" ")[2] for line in (server.line_told, server.line())}
        assert told == {str(pid) for pid in server.pids(2)}
        assert server.stop() == 0


# Counts in a file how often it is executed, and in which process.
ONE_FILE = """
import os
import sys
import sockrpc

app = sockrpc.App()
with open("executed", "a") as file:
    print(os.getpid(), file=file)

@app.method
def pid(call):
    return str(os.getpid())

@app.method
def is_the_program(call):
    return str(sys.modules["__main__"].app is app)

def started(server):
    print("http://127.0.0.1:%d/" % server.sockets[0].getsockname()[1], flush=True)

if __name__ == "__main__":
    sockrpc.run("{name}:app", port=0, workers=int(sys.argv[1]), on_started=started)
"""


@ONCE
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("how", ["a file", "a module of a package"])
def test_a_program_that_names_an_app_of_its_own_is_executed_once_in_each_process(
    tmp_path: Path, how: str, workers: int
) -> None:
    name = "one_file" if how == "a file" else "package.one_file"
    path = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
    path.parent.mkdir(exist_ok=True)
    path.write_text(ONE_FILE.replace("{name}", name))
    program = (str(path),) if how == "a file" else ("-m", name)
    with Command(str(workers), program=program, cwd=tmp_path, PYTHONPATH=str(tmp_path)) as server:
        # All of them: one that is stopped while it starts may not have executed anything.
        uri, *_ = [server.line().replace("http", "ws") for _ in range(workers)]

        async def ask() -> str:
            async with sockrpc.connect(uri) as client:
                return (await client.call("is_the_program")).decode()

        assert asyncio.run(ask()) == "True"
        server.process.terminate()
        assert server.end() == 0
    executed = (tmp_path / "executed").read_text().split()
    assert len(executed) == len(set(executed)) == (1 if workers == 1 else workers + 1)


def test_another_file_of_the_same_name_is_another_module(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    program = tmp_path / "elsewhere" / "same_name.py"
    (tmp_path / "same_name.py").write_text("import sockrpc\napp = sockrpc.App()\n")
    program.write_text(
        f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n"
        "import sockrpc\n"
        "from sockrpc.process.importer import load\n"
        "print(load('same_name:app') is sys.modules['same_name'].app)\n"
        "print(sys.modules['same_name'] is sys.modules['__main__'])\n"
    )
    with Command(program=(str(program),)) as process:
        assert [process.line(), process.line()] == ["True", "False"]
        assert (process.end(), process.log) == (0, [])
