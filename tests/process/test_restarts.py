"""Stops and restarts of whole processes under load: what the clients notice of them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import sockrpc
from tests.kit.command import POSIX, Command
from tests.kit.processes import ROOT, eventually
from tests.kit.properties import is_long
from tests.kit.rolling import Generation, Outcome, roll, under_load
from tests.kit.support import V0, started

pytestmark = [POSIX, pytest.mark.long]

# The table of docs/howto/deploying.md has the numbers of 50.
RESTARTS = 50 if is_long() else 20


def is_good(outcome: Outcome) -> None:
    """Nobody was refused, reset or forgotten, and each call that was started has been answered."""
    assert outcome.failures == {}
    assert outcome.exit_codes == [0] * (outcome.restarts + 1)
    assert outcome.logs == []
    # Connections came at every restart, and found calls in flight.
    assert outcome.connections > 4 * outcome.restarts
    assert outcome.told_to_go >= outcome.restarts
    # What a server has answered has arrived; so a call that was told to go never started.
    assert outcome.calls_answered == outcome.calls_started == outcome.answered > 0
    # Calls that meet the goodbye are refused, and counted as failed.
    assert outcome.calls_ended_otherwise <= outcome.told_to_go


def test_restarts_with_a_socket_that_is_handed_on() -> None:
    is_good(asyncio.run(roll(RESTARTS, "fd")))


def namespaces() -> str:
    """Why there is no network namespace to be had here; empty if there is."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return "network namespaces are made by unshare(1) of Linux"
    made = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    return f"no network namespace can be made: {made.stderr.strip()}" if made.returncode else ""


def roll_in_namespace(**arguments: Any) -> Outcome:
    reason = namespaces()
    if reason:
        pytest.skip(reason)
    if not Path("/proc/sys/net/ipv4/tcp_migrate_req").exists():
        pytest.skip("tcp_migrate_req came with Linux 5.14")
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-P", "-m", "tests.kit.rolling", json.dumps(arguments)],
        stdout=subprocess.PIPE,
        timeout=100,
        # Not the folder of the sources: it would hide the package that was built.
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        check=True,
    )
    return Outcome(**json.loads(done.stdout))


def test_restarts_with_so_reuseport_where_the_system_migrates_connections() -> None:
    is_good(roll_in_namespace(restarts=RESTARTS, how="port", migrate=True))


def test_restarts_with_so_reuseport_where_it_does_not() -> None:
    is_good(roll_in_namespace(restarts=10, how="port", migrate=False))


def test_workers_that_are_replaced_one_after_the_other() -> None:
    outcome = asyncio.run(replace_workers(5))
    assert outcome.failures == {}
    assert outcome.connections > 4 * 2 * outcome.restarts
    assert outcome.told_to_go >= outcome.restarts
    assert outcome.answered > 0


async def replace_workers(times: int) -> Outcome:
    """Send SIGHUP so many times to a server of two workers under load."""
    outcome = Outcome(times)
    # Of this folder: what it serves answers "work" and "echo".
    words = ("serve", "tests.kit.generation:app", "--workers", "2", "--port", "0")
    with Command(*words, cwd=ROOT, PYTHONPATH=os.pathsep.join(sys.path)) as server:
        uri = (await asyncio.to_thread(server.line)).partition(" ")[0].replace("http", "ws")
        async with under_load(uri, outcome):
            for i in range(times):
                server.process.send_signal(signal.SIGHUP)
                await asyncio.to_thread(eventually, lambda i=i: len(server.logged("serves")) == 2 * (i + 2))
        server.process.terminate()
        assert await asyncio.to_thread(server.end) == 0
        assert not server.logged("ERROR")
    return outcome


# One server that is told to stop while it is busy.

CONNECTIONS = 64
CALLS = 16

# One of the calls of each connection never ends by itself.
FOR_EVER = 100_000

Busy = tuple[list[sockrpc.Client], list[asyncio.Task[bytes]], list[asyncio.Task[bytes]]]


async def make_busy(port: int, *, for_ever: bool) -> Busy:
    """The clients, calls in flight of 0 to 300 ms each, and those that never end."""
    clients = [await sockrpc.connect(f"ws://127.0.0.1:{port}/", protocols=V0) for _ in range(CONNECTIONS)]
    short: list[asyncio.Task[bytes]] = []
    endless: list[asyncio.Task[bytes]] = []
    for client in clients:
        milliseconds = [300 * i // (CALLS - 1) for i in range(CALLS)]
        short += [await started(client.call("work", f"{each}", timeout=60)) for each in milliseconds]
        if for_ever:
            endless.append(await started(client.call("work", str(FOR_EVER), timeout=60)))
    # Requests are served in order: these answers say that all before them have started.
    await asyncio.gather(*(client.call("echo") for client in clients))
    return clients, short, endless


async def ended_with(client: sockrpc.Client) -> int | None:
    await client.wait_closed()
    with pytest.raises(sockrpc.ConnectionLost) as lost:
        await client.call("echo")
    return lost.value.code


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("for_ever", [False, True], ids=["all end in time", "some do not"])
def test_a_signal_under_load_loses_no_answer_that_is_ready_in_time(loop: str, for_ever: bool) -> None:
    async def test(server: Command, port: int) -> None:
        clients, short, endless = await make_busy(port, for_ever=for_ever)
        server.process.terminate()
        assert len(await asyncio.gather(*short)) == CONNECTIONS * CALLS
        assert {await ended_with(client) for client in clients} == {1001}
        for call in endless:
            with pytest.raises(sockrpc.ConnectionLost):
                await call
        outcome = Outcome()
        await asyncio.to_thread(server.finish, outcome)
        assert outcome.exit_codes == [0]
        assert outcome.calls_answered == CONNECTIONS * (CALLS + 1)
        assert outcome.calls_ended_otherwise == len(endless)
        assert outcome.logs == []

    with listening() as held, Generation(fd=held.fileno(), loop=loop, stop_grace=2.0) as server:
        asyncio.run(test(server, held.getsockname()[1]))


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_under_load_stops_at_once(loop: str, second: signal.Signals) -> None:
    async def test(server: Command, port: int) -> None:
        clients, short, endless = await make_busy(port, for_ever=True)
        server.process.terminate()
        await asyncio.gather(*short)
        assert server.process.poll() is None
        began = time.monotonic()
        server.process.send_signal(second)
        assert await asyncio.to_thread(server.end) == 0
        # Measured: all of this test, the start of the server included, takes 1.0 to 1.3 s.
        assert time.monotonic() - began < 3
        for call in endless:
            with pytest.raises(sockrpc.ConnectionLost):
                await call
        for client in clients:
            await client.close()

    with listening() as held, Generation(fd=held.fileno(), loop=loop, stop_grace=600.0) as server:
        asyncio.run(test(server, held.getsockname()[1]))
        assert server.log == []
