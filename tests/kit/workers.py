"""Servers of several processes, for tests: the app, the command, and who answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sockrpc
from tests.kit.command import PATIENCE, Command
from tests.kit.processes import eventually

# Most of this is about processes and not about Python's versions.
ONCE = pytest.mark.workers

TWO = ("--workers", "2", "--port", "0")

# "slow" waits until it is told to go on by a file, so that other processes can tell it.
APP = """
import asyncio
import os
import pathlib
import sys
import time
import sockrpc

app = sockrpc.App()

@app.method
def pid(call):
    return str(os.getpid())

@app.method
def flags(call):
    return f"{sys.flags.safe_path} {sys.warnoptions}"

@app.method
async def slow(call):
    print("waiting", flush=True)
    while not pathlib.Path("go").exists():
        await asyncio.sleep(0.01)
    return str(os.getpid())

@app.method
async def for_ever(call):
    print("waiting", flush=True)
    await asyncio.Event().wait()

@app.method
def block(call):
    print("blocking", flush=True)
    time.sleep(3600)
"""


class Workers(Command):
    """A server of several workers, which all serve already.

    Attributes:
        line_told: The line that it printed.
        uri: Where it answers.
        options: What `sockrpc.connect` needs beside that.
    """

    def __init__(self, folder: Path, *arguments: str, program: Path | None = None, **options: Any) -> None:
        (folder / "served.py").write_text(APP)
        if program is None:
            super().__init__("serve", "served:app", *arguments, cwd=folder, **options)
        else:
            super().__init__(*arguments, program=(str(program),), cwd=folder, **options)
        self.options: dict[str, Any] = {}
        try:
            self.line_told = self.line()
        except BaseException:
            self.__exit__()
            raise
        self.uri = self.line_told.partition(" ")[0].replace("http", "ws")
        if self.uri.startswith("unix:"):
            self.options["uds"] = str(folder / self.uri.removeprefix("unix:"))
            self.uri = "ws://localhost/"

    def connect(self) -> sockrpc.connect:
        return sockrpc.connect(self.uri, **self.options)

    def pids(self, count: int) -> set[int]:
        """The workers that answer, once so many have been met."""
        found: set[int] = set()

        def is_met() -> bool:
            found.add(int(self.ask("pid")))
            return len(found) >= count

        eventually(is_met)
        return found

    def ask(self, method: str, payload: str = "") -> str:
        """What one of them answers on a connection of its own."""

        async def asking() -> str:
            while True:
                try:
                    async with self.connect() as client:
                        return (await client.call(method, payload, timeout=PATIENCE)).decode()
                except sockrpc.ConnectionLost as lost:
                    # Let in by one that has just begun to stop, and told so.
                    if lost.code != 1001:
                        raise

        return asyncio.run(asking())

    def stop(self) -> int:
        """The exit code after SIGTERM."""
        self.process.terminate()
        return self.end()


async def client_of_each(server: Workers, count: int) -> dict[int, sockrpc.Client]:
    """A client for each worker, by the worker's process."""
    clients: dict[int, sockrpc.Client] = {}
    async with asyncio.timeout(PATIENCE):
        while len(clients) < count:
            client = await server.connect()
            pid = int(await client.call("pid"))
            if pid in clients:
                await client.close()
            else:
                clients[pid] = client
    return clients


def is_alive(pid: int) -> bool:
    """True until the process has ended and nobody needs to hear of it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # Orphans of a container may never be waited for.
    with contextlib.suppress(OSError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return True


@contextlib.contextmanager
def held_up(pids: set[int]) -> Iterator[None]:
    """Stop these processes (SIGSTOP) while the block runs."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def path_with(folder: Path) -> str:
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
