"""Accepting that is cancelled at the moment in which the transport has been made."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

import sockrpc
from sockrpc.listen.acceptor import serve_line
from sockrpc.peer.peer import Peer
from tests.kit.inside import attached, working
from tests.kit.support import serving, until


async def test_accepting_that_is_cancelled_when_the_transport_has_been_made_gives_the_place_back() -> None:
    app = sockrpc.App()
    app.method("echo")(lambda call: call.payload)

    class Arriving(Peer):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            accepting.cancel()

    loop = asyncio.get_running_loop()
    async with serving(app, max_connections=1) as here:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        service = here.server._service
        accepting = loop.create_task(serve_line(loop, lambda: Arriving("server", service), ours, {}))
        with pytest.raises(asyncio.CancelledError):
            await accepting
        assert not working(here.server)
        assert attached(here.server) == 0
        with theirs:
            await until(lambda: has_been_closed(theirs))
        async with here.connect() as client:
            assert await client.call("echo", b"x") == b"x"


def has_been_closed(line: socket.socket) -> bool:
    line.setblocking(False)
    try:
        return line.recv(1) == b""
    except BlockingIOError:
        return False
