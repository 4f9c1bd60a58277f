"""How signals stop a server: gracefully, at once, and whatever its handlers do."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import sockrpc
from tests.kit.command import PATIENCE, POSIX, Served
from tests.kit.support import RawClient, started

pytestmark = POSIX

# "wait" is answered when "go" is notified; the others never end by themselves, each in its own way.
APP = """
import asyncio
import threading
import sockrpc

app = sockrpc.App()
may_go = asyncio.Event()

@app.method
async def wait(call):
    print("waiting", flush=True)
    await may_go.wait()
    return "answered"

@app.method
async def for_ever(call):
    print("waiting", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        print("aborted:", call.abort_reason, flush=True)

@app.method
async def stubborn(call):
    print("waiting", flush=True)
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            print("ignored", flush=True)

@app.method(thread=True)
def stuck(call):
    print("waiting", flush=True)
    threading.Event().wait()

@app.on
def go(notification):
    may_go.set()
"""

Test = Callable[[Served, sockrpc.Client], Awaitable[None]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "served.py").write_text(APP)
    return tmp_path


def with_server(folder: Path, test: Test, *flags: str) -> None:
    """Run a test with a server and a client of it; the server's end is for the test to see."""
    with Served("serve", "served:app", *flags, cwd=folder) as server:

        async def connected() -> None:
            async with sockrpc.connect(server.uri) as client:
                await test(server, client)

        asyncio.run(connected())


async def in_flight(server: Served, client: sockrpc.Client, method: str) -> asyncio.Task[bytes]:
    """A call whose handler has begun."""
    call = await started(client.call(method))
    assert await asyncio.to_thread(server.line) == "waiting"
    return call


async def until_it_stops(server: Served) -> None:
    """Wait until the server listens no longer: it has begun to stop."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                with socket.create_connection(("127.0.0.1", server.port)):
                    await asyncio.sleep(0)
            except ConnectionError:
                return


async def lost(call: asyncio.Task[bytes]) -> str:
    """The end of a call by the stop: in v1 its own, unless the connection is closed first."""
    with pytest.raises((sockrpc.RPCError, sockrpc.ConnectionLost)) as raised:
        await call
    if isinstance(raised.value, sockrpc.RPCError):
        assert raised.value.code is sockrpc.Code.UNAVAILABLE
        return "1001"
    assert isinstance(raised.value, sockrpc.ConnectionLost)
    return f"{raised.value.code}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_first_signal_stops_gracefully(folder: Path, number: signal.Signals, loop: str) -> None:
    async def test(server: Served, client: sockrpc.Client) -> None:
        call = await in_flight(server, client, "wait")
        async with sockrpc.connect(server.uri) as idle:
            server.process.send_signal(number)
            # One that is idle is closed at once, one with a call in flight is not.
            await idle.wait_closed()
        await until_it_stops(server)
        assert not call.done()
        late = await started(client.call("wait"))
        await client.notify("go")
        assert await call == b"answered"
        # No new call starts.
        assert await lost(late) == "1001"
        assert await asyncio.to_thread(server.end) == 0
        assert server.rest() == b""
        assert not server.logged("ERROR")
        # Who waits for the end is told what it waits for.
        assert server.logged(
            "stopping: 1 calls and 0 notifications have 600 s to end; a second signal aborts them"
        )

    with_server(folder, test, "--stop-grace", "600", "--loop", loop)


def test_a_stop_that_waits_for_nothing_says_nothing(folder: Path) -> None:
    async def test(server: Served, client: sockrpc.Client) -> None:
        server.process.terminate()
        assert await asyncio.to_thread(server.end) == 0
        assert not server.logged("stopping")

    with_server(folder, test)


@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)])
def test_the_second_signal_stops_at_once(folder: Path, numbers: tuple[signal.Signals, ...]) -> None:
    async def test(server: Served, client: sockrpc.Client) -> None:
        call = await in_flight(server, client, "for_ever")
        server.process.send_signal(numbers[0])
        await until_it_stops(server)
        assert server.process.poll() is None
        server.process.send_signal(numbers[1])
        assert await lost(call) in {"1001", "1006"}
        assert await asyncio.to_thread(server.end) == 0
        assert server.rest() == b"aborted: stop\n"
        # It unwound when it was told to, so nobody complains about it.
        assert not server.logged("ERROR")

    with_server(folder, test, "--stop-grace", "600", "--abort-grace", "600")


def test_what_outlasts_the_stop_grace_is_aborted(folder: Path) -> None:
    async def test(server: Served, client: sockrpc.Client) -> None:
        call = await in_flight(server, client, "for_ever")
        server.process.terminate()
        assert await lost(call) == "1001"
        assert await asyncio.to_thread(server.end) == 0
        assert server.rest() == b"aborted: stop\n"
        assert not server.logged("ERROR")

    with_server(folder, test, "--stop-grace", "0.1", "--abort-grace", "600")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_handler_that_ignores_its_cancel_does_not_keep_the_process(folder: Path, loop: str) -> None:
    async def test(server: Served, client: sockrpc.Client) -> None:
        call = await in_flight(server, client, "stubborn")
        server.process.terminate()
        assert await lost(call) == "1001"
        assert await asyncio.to_thread(server.end) == 0
        # The end of the stop grace, that of the abort grace, and the end of the loop.
        assert server.rest().split()[:2] == [b"ignored", b"ignored"]
        assert server.logged("method 'stubborn' has not ended")

    with_server(folder, test, "--stop-grace", "0.1", "--abort-grace", "0.1", "--loop", loop)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_thread_that_is_stuck_does_not_keep_the_process(folder: Path, loop: str) -> None:
    async def test(server: Served, client: sockrpc.Client) -> None:
        call = await in_flight(server, client, "stuck")
        server.process.terminate()
        assert await lost(call) == "1001"
        assert await asyncio.to_thread(server.end) == 0
        assert server.logged("method 'stuck' has not ended in its thread")

    with_server(folder, test, "--stop-grace", "0.1", "--abort-grace", "0.1", "--loop", loop)


def test_the_second_signal_does_not_wait_for_handlers_that_ignore_it(folder: Path) -> None:
    async def test(server: Served, client: sockrpc.Client) -> None:
        stubborn = await in_flight(server, client, "stubborn")
        stuck = await in_flight(server, client, "stuck")
        server.process.terminate()
        await until_it_stops(server)
        server.process.terminate()
        assert await asyncio.to_thread(server.end) == 0
        for call in (stubborn, stuck):
            await lost(call)

    with_server(folder, test, "--stop-grace", "600", "--abort-grace", "600")


def test_clients_that_do_not_answer_the_close_do_not_keep_the_process(folder: Path) -> None:
    async def silent(server: Served) -> None:
        async with await RawClient.connect(server.port) as opened:
            with socket.create_connection(("127.0.0.1", server.port)) as opening:
                # In the middle of its opening request.
                opening.sendall(b"GET /socket HTTP/1.1\r\n")
                await opened.synchronize()
                server.process.terminate()
                assert await opened.closing() == (1001, "server stopping")
                assert await asyncio.to_thread(server.end) == 0

    with Served("serve", "served:app", "--close-timeout", "0.2", cwd=folder) as server:
        asyncio.run(silent(server))
