"""The cost of a broadcast in uvloop itself: on any input, every connection gets a ready-made frame."""

from __future__ import annotations

import asyncio
from typing import Any

from bench.peer import header
from bench.peers.common import arguments, run_protocol
from bench.wire import ACCEPTED, FAN_OUT_BYTES, pattern

ROOM = memoryview(bytearray(256 * 1024))
FRAME = header(FAN_OUT_BYTES, masked=False) + pattern(FAN_OUT_BYTES)
everybody: set[Any] = set()


class Member(asyncio.BufferedProtocol):
    is_open = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        everybody.discard(self.transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return ROOM

    def buffer_updated(self, nbytes: int) -> None:
        if not self.is_open:
            self.is_open = True
            everybody.add(self.transport)
            self.transport.write(ACCEPTED)
        elif ROOM[0] == 0x88:
            # The load closes the connection.
            self.transport.close()
        else:
            for each in everybody:
                each.write(FRAME)


if __name__ == "__main__":
    arguments()
    run_protocol(Member)
