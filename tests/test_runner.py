"""`sockrpc.run`: a server with a loop of its own, in a process of its own.

How signals stop it is in test_cli_stop.py: the command line is a thin shell around it.
"""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sockrpc
from tests.kit.command import POSIX, Command
from tests.kit.support import V0

LOOPS = ["asyncio", pytest.param("uvloop", marks=POSIX)]

# Serves until "stop" is notified; `before` is whatever a test adds.
PROGRAM = """
import asyncio
import threading
import sockrpc

app = sockrpc.App()
servers = []

@app.method
def which_loop(call):
    return type(asyncio.get_running_loop()).__module__

@app.on
def stop(notification):
    servers[0].close()

def started(server):
    servers.append(server)
    print(server.sockets[0].getsockname()[1], flush=True)

{before}
sockrpc.run(app, port=0, on_started=started, {options})
print("returned", flush=True)
"""


class Program(Command):
    """The program above, which listens already."""

    def __init__(self, folder: Path, before: str = "", **options: Any) -> None:
        script = folder / "program.py"
        keywords = ", ".join(f"{name}={value!r}" for name, value in options.items())
        script.write_text(PROGRAM.format(before=before, options=keywords))
        super().__init__(program=(str(script),))
        try:
            self.uri = f"ws://127.0.0.1:{self.line()}/"
        except BaseException:
            self.__exit__()
            raise


def call(uri: str, method: str) -> bytes:
    async def calling() -> bytes:
        async with sockrpc.connect(uri) as client:
            return await client.call(method)

    return asyncio.run(calling())


def stop(uri: str, *notified_before: str) -> None:
    async def stopping() -> None:
        async with sockrpc.connect(uri) as client:
            for event in notified_before:
                await client.notify(event)
            await client.notify("stop")
            await client.wait_closed()

    asyncio.run(stopping())


@pytest.mark.parametrize("loop", LOOPS)
def test_it_serves_on_the_loop_that_was_asked_for_until_the_server_stops(tmp_path: Path, loop: str) -> None:
    with Program(tmp_path, loop=loop) as program:
        assert call(program.uri, "which_loop").decode().startswith(loop)
        stop(program.uri)
        assert program.line() == "returned"
        assert (program.end(), program.log) == (0, [])


@POSIX
def test_uvloop_is_the_default(tmp_path: Path) -> None:
    with Program(tmp_path) as program:
        assert call(program.uri, "which_loop").decode().startswith("uvloop")
        stop(program.uri)
        assert program.end() == 0


def test_asyncio_stands_in_where_uvloop_is_not_installed(tmp_path: Path) -> None:
    # That is how an import is told that there is none.
    without = "import sys; sys.modules['uvloop'] = None"
    with Program(tmp_path, without) as program:
        assert call(program.uri, "which_loop").decode().startswith("asyncio")
        stop(program.uri)
        assert program.end() == 0


def test_uvloop_that_is_asked_for_and_not_installed_is_a_usage_error(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        "import sys; sys.modules['uvloop'] = None\n"
        "import sockrpc\n"
        "try: sockrpc.run(sockrpc.App(), loop='uvloop')\n"
        "except sockrpc.UsageError as error: print(error)\n"
    )
    with Command(program=(str(script),)) as program:
        assert program.line() == "uvloop is not installed"
        assert program.end() == 0


@pytest.mark.parametrize("loop", LOOPS)
def test_a_thread_that_is_stuck_does_not_keep_the_process(tmp_path: Path, loop: str) -> None:
    before = """
@app.method(thread=True)
def stuck(call):
    print("stuck", flush=True)
    threading.Event().wait()
"""
    with Program(tmp_path, before, loop=loop, stop_grace=0.1, abort_grace=0.1) as program:

        async def calling() -> None:
            async with sockrpc.connect(program.uri, protocols=V0) as client:
                waiting = asyncio.ensure_future(client.call("stuck"))
                assert await asyncio.to_thread(program.line) == "stuck"
                await client.notify("stop")
                with pytest.raises(sockrpc.ConnectionLost):
                    await waiting

        asyncio.run(calling())
        assert program.line() == "returned"
        assert program.end() == 0
        assert "method 'stuck' has not ended in its thread" in program.log[0]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("where", ["handler", "background"])
def test_a_task_that_swallows_its_cancel_does_not_keep_the_process(
    tmp_path: Path, loop: str, where: str
) -> None:
    before = """
async def stubborn():
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            print("ignored", flush=True)

@app.on
async def handler(notification):
    await stubborn()

@app.on
def background(notification):
    global task
    task = asyncio.ensure_future(stubborn())
"""
    with Program(tmp_path, before, loop=loop, stop_grace=0.1, abort_grace=0.1) as program:
        stop(program.uri, where)
        assert program.line() == "ignored"
        assert b"returned" in program.rest()
        assert program.end() == 0


@pytest.mark.parametrize("loop", LOOPS)
def test_what_the_application_left_running_is_cancelled_and_unwinds(tmp_path: Path, loop: str) -> None:
    before = """
async def work():
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        print("unwound", flush=True)

async def numbers():
    try:
        while True:
            yield 1
    finally:
        print("generator closed", flush=True)

async def half_read():
    global generator
    generator = numbers()
    await anext(generator)
    raise RuntimeError("nobody looked at this")

@app.on
async def background(notification):
    global tasks
    tasks = [asyncio.ensure_future(work()), asyncio.ensure_future(half_read())]
    await asyncio.sleep(0)
"""
    with Program(tmp_path, before, loop=loop) as program:
        stop(program.uri, "background")
        assert [program.line(), program.line(), program.line()] == ["unwound", "generator closed", "returned"]
        assert program.end() == 0


@pytest.mark.parametrize("loop", LOOPS)
def test_an_exception_in_on_started_stops_the_server_and_comes_out(tmp_path: Path, loop: str) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        "import sockrpc\n"
        "def started(server):\n"
        "    print(server.sockets[0].getsockname()[1], flush=True)\n"
        "    raise LookupError('not today')\n"
        f"try: sockrpc.run(sockrpc.App(), port=0, on_started=started, loop={loop!r})\n"
        "except LookupError as error: print(error)\n"
    )
    with Command(program=(str(script),)) as program:
        port = int(program.line())
        assert program.line() == "not today"
        assert (program.end(), program.log) == (0, [])
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            pass


def test_an_address_that_can_not_be_listened_on_is_an_os_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        sockrpc.run(sockrpc.App(), port=taken.getsockname()[1], loop="asyncio")


async def nothing(socket: sockrpc.Socket) -> None: ...


run: Any = sockrpc.run


MISTAKES: list[tuple[Callable[[], object], str]] = [
    (lambda: run(sockrpc.App(), loop="nonsense"), "'auto', 'uvloop' or 'asyncio', not 'nonsense'"),
    (lambda: run(print), "an App or a coroutine function"),
    (lambda: run(sockrpc.App(), port=0, uds="path"), "one of"),
    (lambda: run(nothing, origins="https://a.example"), "origins"),
    (lambda: run(nothing, max_in_flight=0), "max_in_flight"),
    (lambda: run(nothing, max_listener_bytes=1), "no such limit: max_listener_bytes"),
    (lambda: run(nothing, nonsense=1), "no such limit: nonsense"),
]


@pytest.mark.parametrize(("mistake", "told"), MISTAKES, ids=[told for _, told in MISTAKES])
async def test_a_usage_error_comes_before_any_loop(mistake: Callable[[], object], told: str) -> None:
    """In a running loop, where anything later than the check of the arguments is a RuntimeError."""
    gc.collect()
    loops = living_loops()
    with pytest.raises(sockrpc.UsageError, match=told):
        mistake()
    assert living_loops() == loops


async def test_it_can_not_be_called_in_a_running_loop() -> None:
    with pytest.raises(sockrpc.UsageError, match="running event loop"):
        sockrpc.run(nothing, port=0)
    # The loop of this test is still the one that runs, and nothing was left un-awaited.
    gc.collect()
    await asyncio.sleep(0)


def living_loops() -> int:
    return sum(isinstance(each, asyncio.AbstractEventLoop) for each in gc.get_objects())
