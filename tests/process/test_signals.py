"""Signals that a blocked process can not hold up, and what the program itself does at signals after `run`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import sockrpc
from sockrpc.process.system_signals import end_process_at
from tests.kit.command import POSIX, Command
from tests.kit.processes import eventually
from tests.kit.support import started
from tests.kit.workers import ONCE, TWO, Workers, client_of_each, is_alive, path_with

pytestmark = POSIX

LOOPS = ["asyncio", "uvloop"]

# Handlers that never return, each in its own way. The second lets no Python run, in whatever thread.
BLOCKED = """
import itertools
import sockrpc

app = sockrpc.App()

@app.method
def spin(call):
    print("blocking", flush=True)
    while True:
        pass

@app.method
def count(call):
    print("blocking", flush=True)
    return str(sum(itertools.repeat(1)))
"""

RUN = """
sockrpc.run(app, port=0, loop={loop!r}, stop_grace=0.1, abort_grace=0.1,
            on_started=lambda server: print(server.sockets[0].getsockname()[1], flush=True))
"""


def is_delivered(pid: int) -> bool:
    """True once the process has been interrupted by all signals that were sent to it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return int(fields["SigPnd"], 16) == int(fields["ShdPnd"], 16) == 0


def send(pid: int, number: signal.Signals, times: int) -> None:
    """Send a signal so many times, each when the one before has arrived: the system keeps one of a kind."""
    for _ in range(times):
        os.kill(pid, number)
        eventually(lambda: is_delivered(pid))


linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is pending")


@linux
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("method", ["spin", "count"])
def test_the_third_signal_ends_a_process_that_is_blocked(
    tmp_path: Path, loop: str, number: signal.Signals, method: str
) -> None:
    script = tmp_path / "program.py"
    script.write_text(BLOCKED + RUN.format(loop=loop))
    with Command(program=(str(script),)) as program:
        uri = f"ws://127.0.0.1:{program.line()}/"

        async def block() -> None:
            async with sockrpc.connect(uri, close_timeout=0.1) as client:
                await started(client.call(method))
                assert await asyncio.to_thread(program.line) == "blocking"

        asyncio.run(block())
        send(program.process.pid, number, 2)
        assert program.process.poll() is None
        os.kill(program.process.pid, number)
        # As if nobody handled it: 128 and the number, in a shell.
        assert program.end() == -number


@linux
def test_signals_of_both_kinds_count(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(BLOCKED + RUN.format(loop="auto"))
    with Command(program=(str(script),)) as program:
        uri = f"ws://127.0.0.1:{program.line()}/"

        async def block() -> None:
            async with sockrpc.connect(uri, close_timeout=0.1) as client:
                await started(client.call("spin"))
                assert await asyncio.to_thread(program.line) == "blocking"

        asyncio.run(block())
        send(program.process.pid, signal.SIGTERM, 1)
        send(program.process.pid, signal.SIGINT, 2)
        assert program.end() == -signal.SIGINT


@linux
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=ONCE)])
def test_the_third_signal_ends_all_workers_however_blocked(tmp_path: Path, number: signal.Signals) -> None:
    with Workers(tmp_path, *TWO) as server:

        async def block() -> set[int]:
            clients = await client_of_each(server, 2)
            for client in clients.values():
                await started(client.call("block"))
                assert await asyncio.to_thread(server.line) == "blocking"
            send(server.process.pid, number, 1)
            await asyncio.to_thread(server.wait_log, "all workers are told to stop")
            send(server.process.pid, number, 2)
            assert await asyncio.to_thread(server.end) == -number
            for client in clients.values():
                await client.close()
            return set(clients)

        workers = asyncio.run(block())
        assert not any(map(is_alive, workers))


@linux
@ONCE
def test_the_third_sigterm_ends_one_worker_that_is_blocked_and_it_is_replaced(tmp_path: Path) -> None:
    with Workers(tmp_path, *TWO) as server:

        async def block() -> int:
            clients = await client_of_each(server, 2)
            pid, client = clients.popitem()
            await started(client.call("block"))
            assert await asyncio.to_thread(server.line) == "blocking"
            send(pid, signal.SIGTERM, 3)
            await asyncio.to_thread(server.wait_log, f"(process {pid}) was killed by SIGTERM")
            for each in (client, *clients.values()):
                await each.close()
            return pid

        blocked = asyncio.run(block())
        assert blocked not in server.pids(2)
        assert server.stop() == 0


@ONCE
def test_a_blocked_worker_whose_supervisor_is_killed_does_not_hold_the_port(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("""
import sockrpc.process.workers

sockrpc.process.workers.EXTRA_PATIENCE = 0.2

def tell(addresses):
    print("http://%s:%d/" % addresses[0], flush=True)

if __name__ == "__main__":
    sockrpc.process.workers.run_workers(
        "served:app", 2, port=0, on_listening=tell, stop_grace=0.1, abort_grace=0.1, close_timeout=0.1
    )
""")
    with Workers(tmp_path, program=program, PYTHONPATH=path_with(tmp_path)) as server:

        async def block() -> set[int]:
            clients = await client_of_each(server, 2)
            await started(next(iter(clients.values())).call("block"))
            assert await asyncio.to_thread(server.line) == "blocking"
            server.process.kill()
            for client in clients.values():
                await client.close()
            return set(clients)

        workers = asyncio.run(block())
        eventually(lambda: not any(map(is_alive, workers)))
        assert server.logged("this worker has not stopped, and its supervisor is gone")


@pytest.mark.parametrize("loop", LOOPS)
def test_what_the_program_does_at_signals_is_what_it_was_before(tmp_path: Path, loop: str) -> None:
    script = tmp_path / "program.py"
    script.write_text(f"""
import faulthandler, signal, socket, sys
import sockrpc

def mine(number, frame):
    print("mine", signal.Signals(number).name, flush=True)

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, mine)
faulthandler.register(signal.SIGTERM)
told, tells = socket.socketpair()
tells.setblocking(False)
signal.set_wakeup_fd(tells.fileno())
sockrpc.run(sockrpc.App(), port=0, loop={loop!r}, on_started=lambda server: server.close())
assert signal.getsignal(signal.SIGTERM) is mine
signal.raise_signal(signal.SIGINT)
print(told.recv(9) == bytes([signal.SIGINT]), flush=True)
signal.raise_signal(signal.SIGTERM)
print(signal.set_wakeup_fd(-1) == tells.fileno(), flush=True)
""")
    with Command(program=(str(script),)) as program:
        assert [program.line(), program.line(), program.line()] == ["mine SIGINT", "True", "True"]
        assert program.end() == 0
        # Installed below Python.
        assert "most recent call first" in program.log[0]


def test_a_signal_while_the_server_starts_ends_the_start(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text("""
import asyncio
import sockrpc

app = sockrpc.App()

@app.on_start
async def start():
    print("starting", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        print("unwound", flush=True)

sockrpc.run(app, port=0)
print("returned", flush=True)
""")
    with Command(program=(str(script),)) as program:
        assert program.line() == "starting"
        program.process.terminate()
        assert [program.line(), program.line()] == ["unwound", "returned"]
        assert (program.end(), program.log) == (0, [])


@pytest.mark.parametrize("loop", LOOPS)
def test_a_forked_child_ends_by_its_own_signals_and_disturbs_nobody(tmp_path: Path, loop: str) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        """
import os, signal, time, warnings
import sockrpc

app = sockrpc.App()
servers = []
room = sockrpc.Room()

def refused(act):
    try:
        act()
    except sockrpc.UsageError as error:
        return b"forked" in str(error).encode()
    return False

@app.method
def fork(call):
    # Python 3.12 and newer warn of threads.
    warnings.simplefilter("ignore")
    room.join(call.socket)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        told = [
            refused(servers[0].close), refused(servers[0].hurry), refused(lambda: room.broadcast("m")),
            refused(lambda: room.join(call.socket)), refused(lambda: room.leave(call.socket)),
        ]
        os.write(writing, repr(told).encode())
        while True:
            time.sleep(3600)
    told = os.read(reading, 100)
    os.kill(child, signal.SIGTERM)
    return repr((eval(told), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))

@app.method
def echo(call):
    return call.payload

def started(server):
    servers.append(server)
    print(server.sockets[0].getsockname()[1], flush=True)

sockrpc.run(app, port=0, on_started=started, loop="LOOP")
""".replace("LOOP", loop)
    )
    with Command(program=(str(script),)) as program:
        uri = f"ws://127.0.0.1:{program.line()}/"

        async def test() -> None:
            async with sockrpc.connect(uri) as client:
                assert (await client.call("fork")).decode() == repr(([True] * 5, -signal.SIGTERM))
                assert await client.call("echo", "still here") == b"still here"

        asyncio.run(test())
        program.process.terminate()
        assert (program.end(), program.log) == (0, [])


@pytest.mark.parametrize("workers", [1, 2])
def test_run_in_a_thread_is_a_usage_error_before_anything_listens(workers: int) -> None:
    told: list[BaseException] = []
    listened: list[Any] = []

    def run() -> None:
        try:
            sockrpc.run("tests.kit.handlers:app", port=0, workers=workers, on_started=listened.append)
        except BaseException as error:
            told.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    (error,) = told
    assert isinstance(error, sockrpc.UsageError)
    assert "main thread" in str(error)
    assert not listened


def test_a_number_that_is_no_signal_is_refused() -> None:
    for number in (0, -1, 1000):
        with pytest.raises(ValueError, match="no such signal"):
            end_process_at(3, (signal.SIGTERM, number))
