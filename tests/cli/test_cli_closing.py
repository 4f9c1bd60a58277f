"""A command that has done its work does not wait long for a server that never answers its close frame."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

import pytest

from tests.kit.command import command_line
from tests.kit.raw_server import Peer, RawServer, notification
from tests.kit.support import PATIENCE

pytestmark = pytest.mark.newest


async def answer(peer: Peer, process: Any) -> None:
    await peer.answer(await peer.request(), b"done")


async def read(peer: Peer, process: Any) -> None:
    await peer.receive()


async def interrupt(peer: Peer, process: Any) -> None:
    await peer.send(notification("event", b"seen"))
    assert await process.stdout.readline() == b"seen\n"
    process.send_signal(signal.SIGINT)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(
    ("command", "work", "code"),
    [("call", answer, 0), ("notify", read, 0), ("listen", interrupt, 130)],
    ids=["call", "notify", "listen"],
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
        peer = await server.accept()
        await work(peer, process)
        assert await peer.closing() == (1000, "")
        began = loop.time()
        async with asyncio.timeout(PATIENCE):
            assert await process.wait() == code
        took = loop.time() - began
        assert (1.2 if own else 0.3) < took < (5.0 if own else 1.2 + 2.0)
        await process.communicate()
