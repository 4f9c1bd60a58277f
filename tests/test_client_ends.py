"""What a client of sockrpc.v1 hears of the end of its connection."""

from __future__ import annotations

import asyncio
import struct

import pytest

import sockrpc
from sockrpc import Code, Outcome
from tests.kit.raw_server import RawServer
from tests.kit.support import BINARY, CLOSE, frame, serving

V1 = ("sockrpc.v1",)
HELLO = bytes.fromhex("0a 00 00000040 00010000 00100000")
GOAWAY = bytes((11, Code.UNAUTHENTICATED)) + bytes(4) + b"who are you?"


async def open_client(uri: str) -> sockrpc.Client:
    return await sockrpc.connect(uri, protocols=V1)


async def test_who_is_turned_away_in_the_read_that_brings_the_hello_hears_why() -> None:
    last = frame(CLOSE, struct.pack("!H", 1008), masked=False)
    everything = b"".join(frame(BINARY, each, masked=False) for each in (HELLO, GOAWAY)) + last
    async with RawServer() as server:
        connecting = asyncio.ensure_future(open_client(server.uri))
        peer = await server.peer()
        await peer.shake_hands(everything, {"Sec-WebSocket-Protocol": "sockrpc.v1"})
        # The connection ends in the read after which the client first looks.
        peer.writer.close()
        with pytest.raises(sockrpc.RPCError, match=r"UNAUTHENTICATED: who are you\?"):
            await peer.wait(connecting)


async def test_a_call_that_is_made_after_the_end_has_not_started() -> None:
    async with serving(sockrpc.App()) as here, here.connect(protocols=V1) as client:
        await here.only_socket().close()
        await client.wait_closed()
        for made in (client.call("method"), client.call("method", timeout=1)):
            with pytest.raises(sockrpc.ConnectionLost) as lost:
                await made
            assert lost.value.outcome is Outcome.NOT_STARTED
