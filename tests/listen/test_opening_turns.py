"""Many opening requests at once: each iteration of the loop answers its share of them, in order."""

from __future__ import annotations

import asyncio

import pytest
from websockets.http11 import Request

import sockrpc
import sockrpc.listen.pending_openings
from tests.kit.inside import attached, working
from tests.kit.support import opening, serving, until

MANY = 30


@pytest.fixture(autouse=True)
def no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The share of an iteration is one request."""
    monkeypatch.setattr(sockrpc.listen.pending_openings, "OPENING_SHARE", 0.0)


class Iterations:
    """Counts those of the loop, and in which one each request was worked through."""

    def __init__(self) -> None:
        self.count = 0
        self.seen: list[int] = []
        self.running = True
        self.tick()

    def tick(self) -> None:
        self.count += 1
        if self.running:
            asyncio.get_running_loop().call_soon(self.tick)

    def process_request(self, socket: sockrpc.Socket, request: Request) -> None:
        self.seen.append(self.count)


async def test_requests_that_come_at_once_are_answered_in_several_iterations() -> None:
    iterations = Iterations()
    async with serving(sockrpc.App(), process_request=iterations.process_request) as here:
        lines = [await asyncio.open_connection("127.0.0.1", here.port) for _ in range(MANY)]
        await until(lambda: attached(here.server) == MANY)
        for _, writer in lines:
            writer.write(opening())
        for reader, _ in lines:
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        for _, writer in lines:
            writer.close()
        iterations.running = False
    assert len(set(iterations.seen)) == len(iterations.seen) == MANY


async def test_requests_in_pieces_and_what_follows_them_keep_their_order() -> None:
    app = sockrpc.App()
    app.method("echo")(lambda call: call.payload)
    async with serving(app) as here:
        lines = [await asyncio.open_connection("127.0.0.1", here.port) for _ in range(MANY)]
        for part in (opening()[:20], opening()[20:-2], opening()[-2:]):
            for _, writer in lines:
                writer.write(part)
            await asyncio.sleep(0)
        for reader, writer in lines:
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            writer.close()
        clients = await asyncio.gather(*(open_client(here.uri) for _ in range(MANY)))
        assert await asyncio.gather(*(each.call("echo", b"x") for each in clients)) == [b"x"] * MANY
        for each in clients:
            await each.close()


async def test_connections_that_are_lost_while_they_wait_leave_nothing() -> None:
    async with serving(sockrpc.App()) as here:
        for _ in range(3):
            lines = [await asyncio.open_connection("127.0.0.1", here.port) for _ in range(MANY)]
            await until(lambda: attached(here.server) == MANY)
            for _, writer in lines:
                writer.write(opening())
                writer.transport.abort()
            await until(lambda: attached(here.server) == 0)
        assert not working(here.server)


async def test_connections_that_end_while_their_requests_wait_are_passed_over() -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
    asked: list[sockrpc.Socket] = []

    def end_all(socket: sockrpc.Socket, request: Request) -> None:
        asked.append(socket)
        if len(asked) == MANY // 2:
            for each in list(working(here.server)):
                each.abort("enough")

    async with serving(sockrpc.App(), process_request=end_all) as here:
        lines = [await asyncio.open_connection("127.0.0.1", here.port) for _ in range(MANY)]
        await until(lambda: attached(here.server) == MANY)
        for _, writer in lines:
            writer.write(opening())
        await until(lambda: attached(here.server) == 0)
        for _ in range(MANY):
            await asyncio.sleep(0)
        for _, writer in lines:
            writer.close()
    assert len(asked) == MANY // 2
    assert complaints == []


async def open_client(uri: str) -> sockrpc.Client:
    return await sockrpc.connect(uri)
