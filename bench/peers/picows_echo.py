"""A bare echo on picows, as in its own example; `/fanout` sends to everybody in turn."""

from __future__ import annotations

import asyncio
import logging

from picows import (
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    ws_create_server,
)

from bench.peers.common import BACKLOG, HOST, announce, arguments, run
from bench.wire import FAN_OUT_BYTES, pattern

FAN_OUT = pattern(FAN_OUT_BYTES)
everybody: set[WSTransport] = set()


class Echo(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
        else:
            # A view saves one of the two copies that the example makes.
            transport.send(frame.msg_type, frame.get_payload_as_memoryview())


class FanOut(WSListener):
    def on_ws_connected(self, transport: WSTransport) -> None:
        everybody.add(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        for each in everybody:
            each.send(WSMsgType.BINARY, FAN_OUT)


def choose(request: WSUpgradeRequest) -> WSListener:
    return FanOut() if request.path == b"/fanout" else Echo()


async def begin(end: asyncio.Future[None]) -> None:
    logging.getLogger("picows").setLevel(logging.CRITICAL)
    server = await ws_create_server(choose, HOST, 0, backlog=BACKLOG)
    announce(server.sockets[0].getsockname()[1])
    await end
    server.close()


if __name__ == "__main__":
    arguments()
    run(begin)
