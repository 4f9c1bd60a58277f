"""The cost of a connection in uvloop itself: one protocol for all connections, which keeps nothing."""

from __future__ import annotations

import asyncio
from typing import Any

from bench.peers.common import arguments, run_protocol
from bench.wire import ACCEPTED

ROOM = memoryview(bytearray(256 * 1024))


class Nothing(asyncio.BufferedProtocol):
    def connection_made(self, transport: Any) -> None:
        # Send the answer before any request, because the protocol cannot know later whose request it reads.
        transport.write(ACCEPTED)

    def get_buffer(self, sizehint: int) -> memoryview:
        return ROOM

    def buffer_updated(self, nbytes: int) -> None:
        pass


def main() -> None:
    arguments()
    nothing = Nothing()
    run_protocol(lambda: nothing)


if __name__ == "__main__":
    main()
