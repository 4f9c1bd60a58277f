"""A command that has done its work does not wait long for a server that never answers its close frame."""

from __future__ import annotations

import asyncio
import signal
import struct
import sys
from typing import Any

import pytest

from tests.kit.command import command_line
from tests.kit.raw_server import Peer, RawServer, notification
from tests.kit.support import BINARY, PATIENCE, frame

pytestmark = pytest.mark.newest

V1 = {"Sec-WebSocket-Protocol": "sockrpc.v1"}


def message(data: bytes) -> bytes:
    return frame(BINARY, data, masked=False)


HELLO = message(b"\x0a\x00" + struct.pack("!III", 64, 65536, 1 << 20))


async def answer(peer: Peer, process: Any) -> None:
    await peer.answer(await peer.request(), b"done")


async def read(peer: Peer, process: Any) -> None:
    await peer.receive()


async def interrupt(peer: Peer, process: Any) -> None:
    await peer.send(notification("event", b"seen"))
    assert await process.stdout.readline() == b"seen\n"
    process.send_signal(signal.SIGINT)


async def greet(peer: Peer) -> None:
    """What a server of sockrpc.v1 says before the first call: its Hello came with the 101."""
    assert (await peer.receive())[1][:2] == b"\x0a\x00"
    assert await peer.receive() == (BINARY, b"\x0c")
    await peer.send(message(b"\x0d"))


async def answer_in_v1(peer: Peer, process: Any) -> None:
    await greet(peer)
    opening = (await peer.receive())[1]
    assert opening[0] == 5
    await peer.send(message(b"\x04" + opening[1:5] + b"done"))


async def stream_in_v1(peer: Peer, process: Any) -> None:
    await greet(peer)
    opening = (await peer.receive())[1]
    assert opening[0] == 5
    await peer.send(message(b"\x06" + opening[1:5] + b"item"))
    assert await process.stdout.readline() == b"item\n"
    await peer.send(message(b"\x04" + opening[1:5]))
    # The end of the items of its own, of which it has none.
    assert await peer.receive() == (BINARY, b"\x07" + opening[1:5])


async def interrupt_in_v1(peer: Peer, process: Any) -> None:
    await greet(peer)
    opening = (await peer.receive())[1]
    process.send_signal(signal.SIGINT)
    assert await peer.receive() == (BINARY, b"\x03" + opening[1:5])
    # Error CANCELLED, not started.
    await peer.send(message(b"\x09" + opening[1:5] + b"\x01\x01" + bytes(2)))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(
    ("command", "work", "code"),
    [
        ("call", answer, 0),
        ("notify", read, 0),
        ("listen", interrupt, 130),
        ("call", answer_in_v1, 0),
        ("stream", stream_in_v1, 0),
        ("call", interrupt_in_v1, 130),
    ],
    ids=["call", "notify", "listen", "call in v1", "stream in v1", "Ctrl-C in v1"],
)
@pytest.mark.parametrize("own", [False, True], ids=["by default", "as given"])
async def test_a_server_that_never_answers_the_close_frame(
    command: str, work: Any, code: int, own: bool
) -> None:
    loop = asyncio.get_running_loop()
    limit = ["--close-timeout", "1.5"] if own else []
    async with RawServer() as server:
        process = await asyncio.create_subprocess_exec(
            *command_line(command, server.uri, "event", *limit),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        is_v1 = work.__name__.endswith("_v1")
        peer = await server.accept(then=HELLO if is_v1 else b"", headers=V1 if is_v1 else {})
        await work(peer, process)
        if is_v1:
            # It takes leave, as nothing is open.
            assert (await peer.receive())[1][:6] == b"\x0b\x0e" + bytes(4)
        assert await peer.closing() == (1000, "")
        began = loop.time()
        async with asyncio.timeout(PATIENCE):
            assert await process.wait() == code
        took = loop.time() - began
        assert (1.2 if own else 0.3) < took < (5.0 if own else 1.2 + 2.0)
        await process.communicate()
