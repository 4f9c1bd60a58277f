"""Keepalive and stalls: who is given up, when, and who is not."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import sockrpc
from tests.kit.http_peer import line_to
from tests.kit.inside import has_ended, unsent_bytes, working
from tests.kit.narrow import LINE_BYTES, serving_narrowly
from tests.kit.raw_server import Peer, RawServer
from tests.kit.support import (
    BINARY,
    PATIENCE,
    PING,
    PONG,
    RawClient,
    frame,
    opening,
    request,
    serving,
    started,
    until,
)
from tests.kit.work import Work

# Times are what is tested here: small ones, with generous upper bounds.
STALL = 0.3
LONG_ENOUGH = 4 * STALL
OUTPUT: dict[str, Any] = {
    "output_high_bytes": 50_000,
    "output_low_bytes": 10_000,
    "output_max_bytes": 8 * LINE_BYTES,
}
CHUNK = bytes(30_000)


async def ticks(seconds: float, every: float) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        yield
        await asyncio.sleep(every)


def fill(socket: sockrpc.Socket, size: int) -> None:
    """Have so much unsent that it stays above the high-water mark however much the system takes."""
    while unsent_bytes(socket) < size:
        assert socket.notify_nowait("n", CHUNK)


# Stalls


async def test_a_peer_that_reads_nothing_is_given_up_after_stall_timeout() -> None:
    there = Work()
    loop = asyncio.get_running_loop()
    async with (
        serving_narrowly(there.app(), stall_timeout=STALL, **OUTPUT) as here,
        await here.narrow_raw() as raw,
        await here.raw() as other,
    ):
        await raw.send(request(1, "work"))
        await until(lambda: there.calls)
        socket = there.calls[0].socket
        began = loop.time()
        fill(socket, LINE_BYTES)
        await until(lambda: has_ended(socket))
        assert 0.95 * STALL < loop.time() - began < PATIENCE
        assert (socket.close_reason or "").startswith("stalled")
        await until(lambda: there.ended)
        assert there.reasons == ["lost"]
        await other.synchronize()
        assert here.server.statistics().slow_peers_closed == 1


async def test_a_peer_that_reads_slowly_but_steadily_is_not_given_up() -> None:
    async with (
        serving_narrowly(Work().app(), stall_timeout=STALL, **OUTPUT) as here,
        await here.narrow_raw() as raw,
    ):
        socket = here.only_socket()
        fill(socket, 3 * LINE_BYTES)
        async for _ in ticks(LONG_ENOUGH, every=STALL / 8):
            await raw.wait(raw.reader.readexactly(len(CHUNK)))
        # It was blocked all the time.
        assert unsent_bytes(socket) > OUTPUT["output_high_bytes"]
        assert here.server.connections


async def test_output_that_grows_is_no_progress() -> None:
    async with serving_narrowly(Work().app(), stall_timeout=STALL, **OUTPUT) as here, await here.narrow_raw():
        socket = here.only_socket()
        fill(socket, LINE_BYTES)
        async for _ in ticks(LONG_ENOUGH, every=STALL / 8):
            if not socket.notify_nowait("n", b"more"):
                break
        assert not here.server.connections


async def test_a_queue_that_does_not_move_is_given_up_after_stall_timeout() -> None:
    there = Work()
    loop = asyncio.get_running_loop()
    options: dict[str, Any] = {"max_in_flight": 1, "max_waiting_calls": 2, "stall_timeout": STALL}
    async with serving(there.app(), **options) as here, await here.raw() as raw, await here.raw() as other:
        await other.send(request(1, "work"), request(2, "echo"))
        await until(lambda: len(there.calls) == 1)
        began = loop.time()
        await raw.send(*(request(n, "work") for n in range(4)))
        await until(lambda: len(there.calls) == 2)
        socket = there.calls[1].socket
        await until(lambda: has_ended(socket))
        assert 0.95 * STALL < loop.time() - began < PATIENCE
        assert (socket.close_reason or "").startswith("stalled")
        await until(lambda: there.reasons == ["lost"])
        # A queue that is not full stops no reading, however long it stands.
        await other.synchronize()
        statistics = here.server.statistics()
        assert (statistics.connections, statistics.slow_peers_closed) == (1, 0)


async def test_a_queue_that_moves_slowly_but_steadily_is_not_given_up() -> None:
    app = sockrpc.App()
    gate = asyncio.Semaphore(0)

    @app.method("step")
    async def step(call: sockrpc.Call) -> bytes:
        await gate.acquire()
        return call.payload

    options: dict[str, Any] = {"max_in_flight": 1, "max_waiting_calls": 2, "stall_timeout": STALL}
    async with serving(app, **options) as here, await here.raw() as raw:
        await raw.send(*(request(n, "step") for n in range(1000)))
        await until(lambda: here.server.statistics().procedures_waiting == 2)
        steps = 0
        async for _ in ticks(LONG_ENOUGH, every=STALL / 4):
            assert here.server.statistics().procedures_waiting == 2
            gate.release()
            assert await raw.answer() == (steps, b"")
            steps += 1
        assert steps < 990
        assert here.server.connections


async def test_a_server_that_reads_nothing_is_given_up_by_its_client() -> None:
    async with RawServer() as server:
        client, peer = await server.client(stall_timeout=STALL, **OUTPUT)
        calls = [asyncio.ensure_future(client.call("work", bytes(LINE_BYTES))) for _ in range(8)]
        for call in calls:
            with pytest.raises(sockrpc.ConnectionLost, match="stalled"):
                await peer.wait(call)
        await peer.wait(client.wait_closed())


async def test_without_a_stall_timeout_nobody_is_given_up_for_not_reading() -> None:
    options: dict[str, Any] = {"stall_timeout": None, "ping_interval": 0.05, "ping_timeout": 0.05}
    async with serving_narrowly(Work().app(), **options, **OUTPUT) as here, await here.narrow_raw():
        fill(here.only_socket(), LINE_BYTES)
        await asyncio.sleep(LONG_ENOUGH)
        assert here.server.connections


# Keepalive, of both roles


class End:
    """The raw end of a connection whose other end sends pings."""

    def __init__(self, raw: RawClient | Peer, ended: Any, *, masked: bool) -> None:
        self.raw = raw
        self.ended = ended
        self.masked = masked

    async def ping(self) -> bytes:
        opcode, payload = await self.raw.receive()
        assert opcode == PING
        return payload

    def frame(self, opcode: int, payload: bytes) -> bytes:
        return frame(opcode, payload, masked=self.masked)


@pytest.fixture(params=["server", "client"])
def role(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Alive:
    """A connection of one role with these limits, and the raw end of it."""

    def __init__(self, role: str, **limits: Any) -> None:
        self.role = role
        self.limits = limits

    async def __aenter__(self) -> End:
        if self.role == "server":
            self.serving = serving(Work().app(), **self.limits)
            here = await self.serving.__aenter__()
            self.raw = await here.raw()
            socket = here.only_socket()
            return End(self.raw, lambda: has_ended(socket), masked=True)
        self.server = RawServer()
        await self.server.__aenter__()
        self.client, peer = await self.server.client(**self.limits)
        return End(peer, lambda: has_ended(self.client), masked=False)

    async def __aexit__(self, *exc_info: object) -> None:
        if self.role == "server":
            await self.raw.close()
            await self.serving.__aexit__(None, None, None)
        else:
            await self.server.__aexit__(*exc_info)
            await self.client.wait_closed()


async def test_an_idle_connection_is_pinged_and_lives_as_long_as_it_answers(role: str) -> None:
    async with Alive(role, ping_interval=0.1, ping_timeout=0.2) as end:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for n in range(1, 6):
            payload = await end.ping()
            # Its time begins when the connection is open, a moment before.
            assert loop.time() - began >= n * 0.1 - 0.05
            await end.raw.send(end.frame(PONG, payload))
        assert not end.ended()


async def test_a_connection_that_answers_no_ping_is_given_up(role: str) -> None:
    async with Alive(role, ping_interval=0.1, ping_timeout=0.2) as end:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await end.ping()
        assert await end.raw.nothing_more()
        # Its time begins when the connection is open, a moment before.
        assert 0.25 <= loop.time() - began < PATIENCE
        assert end.ended()


async def test_any_byte_that_is_received_counts_as_alive(role: str) -> None:
    async with Alive(role, ping_interval=0.1, ping_timeout=0.2) as end:
        # A frame that takes its time; no ping is answered.
        message = end.frame(BINARY, b"\x01\x05event" + bytes(10_000))
        sent = 0
        async for _ in ticks(1.2, every=0.04):
            await end.raw.send(message[sent : sent + 1])
            sent += 1
            assert not end.ended()
        await end.raw.send(message[sent:])
        await end.raw.send(end.frame(PING, b"still there?"))
        while (received := await end.raw.receive())[0] == PING:
            pass
        assert received == (PONG, b"still there?")


async def test_a_connection_that_is_used_is_not_pinged(role: str) -> None:
    async with Alive(role, ping_interval=0.8, ping_timeout=0.2) as end:
        async for _ in ticks(1.6, every=0.02):
            await end.raw.send(end.frame(PING, b"mine"))
            assert await end.raw.receive() == (PONG, b"mine")


async def test_without_a_ping_interval_there_are_no_pings(role: str) -> None:
    async with Alive(role, ping_interval=None, ping_timeout=0.05) as end:
        await asyncio.sleep(0.3)
        await end.raw.send(end.frame(PING, b"first"))
        assert await end.raw.receive() == (PONG, b"first")
        assert not end.ended()


async def test_without_a_ping_timeout_nobody_has_to_answer(role: str) -> None:
    async with Alive(role, ping_interval=0.05, ping_timeout=None) as end:
        await end.ping()
        await asyncio.sleep(0.5)
        assert not end.ended()


async def test_while_reading_is_paused_it_is_pinged_again_and_again_and_no_answer_is_expected() -> None:
    there = Work()
    options: dict[str, Any] = {"max_in_flight": 1, "max_waiting_calls": 1, "ping_interval": 0.1}
    async with serving(there.app(), ping_timeout=0.1, **options) as here, await here.raw() as raw:
        await raw.send(*(request(n, "work") for n in range(4)))
        await until(lambda: here.server.statistics().procedures_waiting == 1)
        for _ in range(5):
            assert await raw.receive() == (PING, b"sockrpc")
        there.may_answer.set()
        assert [await raw.answer() for _ in range(4)] == [(n, b"answer") for n in range(4)]
        await raw.synchronize()


# A loop that was blocked reads before it judges


async def block(seconds: float, first: Callable[[], object] = lambda: None) -> None:
    """Block the loop in a callback that is followed, in the same iteration, by all timers then due."""

    def blocking() -> None:
        first()
        time.sleep(seconds)

    loop = asyncio.get_running_loop()
    loop.call_later(0.001, blocking)
    # So that the sweep is due in the iteration in which `blocking` runs, behind it.
    time.sleep(0.03)  # noqa: ASYNC251 - this is the blocked loop
    await asyncio.sleep(0)
    await asyncio.sleep(0)


class Elsewhere(threading.Thread):
    """A client in a thread, which answers each ping a little later, whatever our loop does."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.line = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.pinged = threading.Event()
        self.received = bytearray()

    def run(self) -> None:
        try:
            while data := self.line.recv(65536):
                self.received += data
                ping = frame(PING, b"sockrpc", masked=False)
                while ping in self.received:
                    del self.received[: self.received.index(ping) + len(ping)]
                    self.pinged.set()
                    # Time for our loop to be blocked before the answer comes.
                    time.sleep(0.05)
                    self.line.sendall(frame(PONG, b"sockrpc"))
        except OSError:
            pass


async def test_a_loop_that_was_blocked_longer_than_the_ping_timeout_gives_up_nobody_who_lives() -> None:
    async with serving(Work().app(), ping_interval=0.1, ping_timeout=0.2) as here:
        elsewhere = Elsewhere(here.port)
        with elsewhere.line:
            elsewhere.line.sendall(opening())
            await until(lambda: here.server.connections)
            elsewhere.start()
            socket = here.only_socket()
            for _ in range(3):
                elsewhere.pinged.clear()
                await until(elsewhere.pinged.is_set)
                await block(0.5)
            await asyncio.sleep(0.1)
            assert not has_ended(socket)
        await until(lambda: has_ended(socket))
        elsewhere.join()


async def test_a_loop_that_was_blocked_longer_than_the_handshake_timeout_reads_the_request_first() -> None:
    async with serving(Work().app(), handshake_timeout=0.2) as here, line_to(here.port) as (reader, writer):
        await until(lambda: working(here.server))
        for _ in range(5):
            await asyncio.sleep(0)
        await block(0.5, lambda: os.write(writer.get_extra_info("socket").fileno(), opening()))
        async with asyncio.timeout(PATIENCE):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")


async def test_a_loop_that_was_blocked_longer_than_the_stall_timeout_gives_up_no_peer_that_reads() -> None:
    async with (
        serving_narrowly(Work().app(), stall_timeout=STALL, **OUTPUT) as here,
        await here.narrow_raw() as raw,
    ):
        fill(here.only_socket(), LINE_BYTES)
        reading = await started(raw.reader.readexactly(LINE_BYTES))
        for _ in range(20):
            await asyncio.sleep(0)
        await block(2 * STALL)
        await raw.wait(reading)
        assert here.server.connections
