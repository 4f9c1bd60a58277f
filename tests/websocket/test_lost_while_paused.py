"""A line that is lost while nobody reads it: noticed within a second, whatever was paused it for."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from websockets.http11 import Request

import sockrpc
from sockrpc.websocket.line import has_nothing_to_read_but_the_end
from tests.kit.inside import working
from tests.kit.support import RawClient, cut, notify, opening, request, serving, until
from tests.kit.tls import client_context, server_context
from tests.kit.work import Work

# No time that a verdict is due by itself: keepalive, stalls and handshakes take a minute here.
SLOW: dict[str, Any] = {"stall_timeout": 60.0, "ping_interval": 60.0, "handshake_timeout": 60.0}
# By two looks, 0.4 s apart; the rest is for machines that are busy.
SOON = 2.0

pytestmark = [
    pytest.mark.outside,
    pytest.mark.skipif(sys.platform == "win32", reason="not told by Windows"),
]


@pytest.fixture(params=["end of file", "reset"])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["plain", "tls"])
def line(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def options(line: str) -> dict[str, Any]:
    return SLOW | ({"ssl": server_context()} if line == "tls" else {})


async def raw_client(port: int, line: str) -> RawClient:
    tls: dict[str, Any] = {}
    if line == "tls":
        tls = {"ssl": client_context(), "server_hostname": "127.0.0.1"}
    return RawClient(*await asyncio.open_connection("127.0.0.1", port, **tls))


async def open_client(port: int, line: str) -> RawClient:
    raw = await raw_client(port, line)
    await raw.send(opening())
    assert (await raw.wait(raw.reader.readuntil(b"\r\n\r\n"))).startswith(b"HTTP/1.1 101 ")
    return raw


def lose(raw: RawClient, how: str) -> None:
    if how == "reset":
        cut(raw.writer)
        return
    # The system's own end, whatever TLS would still say.
    with raw.writer.get_extra_info("socket").dup() as same:
        same.shutdown(socket.SHUT_WR)


async def test_behind_a_full_queue(how: str, line: str) -> None:
    there = Work()
    async with serving(there.app(), max_in_flight=1, max_waiting_calls=2, **options(line)) as here:
        raw = await open_client(here.port, line)
        # More than the queue takes, so that bytes are left in the system, in front of the end.
        await raw.send(*(request(n, "work", bytes(100)) for n in range(100)))
        await until(lambda: here.server.statistics().procedures_waiting == 2)
        socket_ = here.only_socket()
        began = time.monotonic()
        lose(raw, how)
        await until(lambda: socket_.close_code is not None)
        assert time.monotonic() - began < SOON
        assert (socket_.close_code, socket_.closed_by) == (1006, "lost")
        await until(lambda: there.reasons == ["lost"])
        await until(lambda: not working(here.server))
        # None of those that waited has begun, and the system's bytes are nobody's.
        assert len(there.calls) == 1
        await raw.close()


async def test_while_process_request_waits(how: str, line: str) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def hook(socket: sockrpc.Socket, request: Request) -> None:
        begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.set()

    async with serving(
        sockrpc.App(), process_request=hook, max_handshake_bytes=1000, **options(line)
    ) as here:
        raw = await raw_client(here.port, line)
        await raw.send(opening())
        await raw.wait(begun.wait())
        await raw.send(bytes(50_000))
        (connection,) = working(here.server)
        await until(lambda: not connection.transport.is_reading())
        began = time.monotonic()
        lose(raw, how)
        await raw.wait(cancelled.wait())
        assert time.monotonic() - began < SOON
        await until(lambda: not working(here.server))
        raw.writer.transport.abort()


async def test_an_end_that_stands_behind_more_than_the_system_takes(line: str) -> None:
    there = Work()
    limits = {"max_in_flight": 1, "max_waiting_calls": 2}
    async with serving(there.app(), **limits, **options(line)) as here:
        raw = await open_client(here.port, line)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                while True:
                    await raw.send(*(request(n, "work", bytes(1000)) for n in range(1000)))
        socket_ = here.only_socket()
        began = time.monotonic()
        # As a process that was killed: its system still has to send what the process had written.
        raw.writer.transport.abort()
        await until(lambda: socket_.close_code is not None)
        assert time.monotonic() - began < SOON
        await until(lambda: there.reasons == ["lost"])


async def test_while_its_own_handlers_keep_it_from_its_turn(how: str) -> None:
    app = sockrpc.App()
    begun: list[int] = []

    @app.method("slow")
    def slow(call: sockrpc.Call) -> None:
        begun.append(call.id)
        # More than the fair share, so that each costs the connection its turn.
        time.sleep(0.01)

    async with serving(app, **SLOW) as here:
        raw = await open_client(here.port, "plain")
        await raw.send(*(request(n, "slow") for n in range(1000)))
        await until(lambda: begun)
        socket_ = here.only_socket()
        began = time.monotonic()
        lose(raw, how)
        await until(lambda: socket_.close_code is not None)
        assert time.monotonic() - began < SOON
        assert len(begun) < 500
        await raw.close()


async def test_over_a_unix_socket(tmp_path: Path) -> None:
    there = Work()
    path = str(tmp_path / "socket")
    async with sockrpc.serve(
        there.app(), uds=path, max_in_flight=1, max_waiting_calls=2, close_timeout=1.0, **SLOW
    ):
        raw = RawClient(*await asyncio.open_unix_connection(path))
        await raw.send(opening(), *(request(n, "work") for n in range(100)))
        await until(lambda: there.calls)
        began = time.monotonic()
        raw.writer.transport.abort()
        await until(lambda: there.reasons == ["lost"])
        assert time.monotonic() - began < SOON


async def test_who_is_still_there_is_looked_at_and_left_alone() -> None:
    there = Work()
    async with serving(there.app(), max_in_flight=1, max_waiting_calls=2, **SLOW) as here:
        raw = await open_client(here.port, "plain")
        await raw.send(*(request(n, "work") for n in range(10)))
        await until(lambda: here.server.statistics().procedures_waiting == 2)
        await asyncio.sleep(1.3)
        assert here.server.connections
        there.may_answer.set()
        assert [await raw.answer() for _ in range(10)] == [(n, b"answer") for n in range(10)]
        await raw.synchronize()
        await raw.close()


async def test_what_was_sent_before_an_end_that_is_read_in_order_is_served() -> None:
    app = sockrpc.App()
    heard: list[bytes] = []

    @app.on
    def n(notification: sockrpc.Notification) -> None:
        heard.append(notification.payload)
        time.sleep(0.001)

    async with serving(app, **SLOW) as here:
        raw = await open_client(here.port, "plain")
        # Far more than one turn takes, and far less than two looks; the pauses of fairness are no reason to
        # lose any of it.
        await raw.send(*(notify("n", b"%d" % n) for n in range(100)))
        await raw.close()
        await until(lambda: not working(here.server))
    assert heard == [b"%d" % n for n in range(100)]


async def test_it_leaves_nothing_to_look_at() -> None:
    there = Work()
    async with serving(there.app(), max_in_flight=1, max_waiting_calls=2, **SLOW) as here:
        for _ in range(50):
            raw = await open_client(here.port, "plain")
            await raw.send(*(request(n, "work") for n in range(10)))
            raw.reset_line()
        await until(lambda: len(there.reasons) == 50)
        await until(lambda: not working(here.server))
        assert here.server.statistics().connections == 0


@pytest.mark.parametrize("what", ["nothing", "bytes", "end of file", "reset"])
def test_the_look_of_systems_that_can_do_no_better(what: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = socket.create_connection(listening.getsockname())
        theirs, _ = listening.accept()
        with ours, theirs:
            if what == "bytes":
                theirs.sendall(b"x")
                assert ours.recv(1, socket.MSG_PEEK) == b"x"
            elif what == "reset":
                ours.sendall(b"x")
                assert theirs.recv(1, socket.MSG_PEEK) == b"x"
                theirs.close()
            elif what == "end of file":
                theirs.close()
                assert ours.recv(1, socket.MSG_PEEK) == b""
            ours.setblocking(False)
            assert has_nothing_to_read_but_the_end(ours) == (what in ("end of file", "reset"))
