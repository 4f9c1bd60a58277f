"""A client that the server's application turns away, as sockrpc.v1 can say why."""

from __future__ import annotations

import asyncio
import struct

import pytest

import sockrpc
from tests.kit.raw_server import Peer, RawServer, open_client
from tests.kit.support import BINARY, CLOSE, PATIENCE, frame

V1 = {"Sec-WebSocket-Protocol": "sockrpc.v1"}


def message(data: bytes) -> bytes:
    return frame(BINARY, data, masked=False)


HELLO = message(b"\x0a\x00" + struct.pack("!III", 64, 65536, 1 << 20))
GOAWAY = message(b"\x0b\x10" + bytes(4) + b"who are you?")
REFUSED = frame(CLOSE, struct.pack("!H", 1008), masked=False)


@pytest.mark.parametrize("together", [True, False], ids=["in one segment", "one after the other"])
async def test_the_refusal_is_raised_whenever_it_comes(together: bool) -> None:
    """Also before the client has had its turn after the server's Hello."""

    async def refuse(peer: Peer) -> None:
        await peer.shake_hands(then=HELLO + GOAWAY + REFUSED if together else HELLO, headers=V1)
        # The client's Hello, and the Ping whose answer tells that it is let in.
        await peer.receive()
        if not together:
            assert await peer.receive() == (BINARY, b"\x0c")
            await peer.send(GOAWAY, REFUSED)

    async with RawServer() as server, asyncio.timeout(PATIENCE):
        connecting = asyncio.ensure_future(open_client(server.uri, {"protocols": ("sockrpc.v1",)}))
        await refuse(await server.peer())
        with pytest.raises(sockrpc.RPCError) as told:
            await connecting
    assert (told.value.code, told.value.message) == (sockrpc.Code.UNAUTHENTICATED, "who are you?")
    assert told.value.outcome is sockrpc.Outcome.NOT_STARTED
