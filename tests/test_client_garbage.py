"""What a client's errors refer to is free once they are, without the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

import sockrpc
from tests.kit.raw_server import RawServer, connected
from tests.kit.support import PATIENCE, serving, until

INSIDE = "ws://inside.example/"


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Held:
    """What a caller has in hand when an error passes."""


async def is_free_after(failing: Callable[[], Awaitable[object]], kind: type[Exception]) -> bool:
    """Whether the frames that an error has passed are gone once it is."""

    async def caller() -> weakref.ref[Held]:
        held = Held()
        try:
            await failing()
        except kind:
            return weakref.ref(held)
        raise AssertionError("it has not failed")

    async with asyncio.timeout(PATIENCE):
        task = asyncio.ensure_future(caller())
        reference = await task
        del task
        # What the loop has still to do for it: a transport that is closed.
        await until(lambda: reference() is None, PATIENCE / 4)
    return reference() is None


async def connect(uri: str, **options: Any) -> None:
    await sockrpc.connect(uri, **options)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_of_a_connection_that_is_refused(host: str) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        uri = f"ws://{host}:{unheard.getsockname()[1]}/"
        assert await is_free_after(lambda: connect(uri), OSError)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n", sockrpc.HandshakeError),
        (b"HTTP/1.1 302 Found\r\nLocation: ftp://x/\r\n\r\n", sockrpc.HandshakeError),
        (b"HTTP/1.1 101 \r\n\r\n", sockrpc.HandshakeError),
        (b"HTTP/1.1 40", sockrpc.ConnectionLost),
        (b"SSH-2.0", sockrpc.HandshakeError),
        (b"", sockrpc.ConnectionLost),
    ],
)
async def test_of_a_server_or_a_proxy_that_refuses(answer: bytes, kind: type[Exception]) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        where = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert await is_free_after(lambda: connect(INSIDE, proxy=f"http://{where}"), kind)
        assert await is_free_after(lambda: connect(f"ws://{where}/"), kind)


async def test_of_a_server_that_does_not_answer_in_time() -> None:
    async with RawServer() as server:
        assert await is_free_after(lambda: connect(server.uri, open_timeout=0.05), TimeoutError)


async def test_of_a_lost_connection() -> None:
    async def listen() -> None:
        async with connected() as (client, peer):
            await peer.close_politely(1013)
            await anext(client.on("event"))

    async def call() -> None:
        async with connected() as (client, peer):
            await peer.close_politely(1013)
            await client.call("method")

    assert await is_free_after(listen, sockrpc.ConnectionLost)
    assert await is_free_after(call, sockrpc.ConnectionLost)


async def test_of_a_loss_that_ends_reconnecting() -> None:
    app = sockrpc.App()

    @app.on_connect
    async def refuse(socket: sockrpc.Socket) -> None:
        await socket.close(4400)

    async def reconnect() -> None:
        async for client in sockrpc.connect(here.uri):
            await client.wait_closed()

    async with serving(app) as here:
        assert await is_free_after(reconnect, sockrpc.ConnectionLost)


async def test_a_listener_raises_another_exception_each_time() -> None:
    """Of one that is raised again the traceback grows."""
    async with connected() as (client, peer):
        listener = client.on("event")
        peer.reset_line()
        errors = []
        for _ in range(3):
            with pytest.raises(sockrpc.ConnectionLost) as raised:
                await anext(listener)
            errors.append((raised.value.args, raised.value.__cause__, len(raised.traceback)))
    assert errors[0] == errors[1] == errors[2]
    assert isinstance(errors[0][1], ConnectionError)
