"""The limit: a uvloop protocol that writes ready-made answers without parsing.

It only counts bytes, because all requests have the same length (`--request` bytes on the wire), and answers
each with the same Response of `--payload` bytes. Nothing on this loop can be faster.
"""

from __future__ import annotations

import asyncio
from typing import Any

from bench.peer import header
from bench.peers.common import arguments, run_protocol
from bench.wire import ACCEPTED, pattern

ROOM = memoryview(bytearray(256 * 1024))


class Limit(asyncio.BufferedProtocol):
    request = 0
    answer = 0
    answers = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.is_open = False
        self.part = 0

    def get_buffer(self, sizehint: int) -> memoryview:
        return ROOM

    def buffer_updated(self, nbytes: int) -> None:
        if not self.is_open:
            self.is_open = True
            self.transport.write(ACCEPTED)
            return
        count, self.part = divmod(self.part + nbytes, self.request)
        if count:
            self.transport.write(self.answers[: self.answer * count])


def main() -> None:
    options = arguments("request", "payload")
    payload = pattern(options.payload)
    answer = header(5 + len(payload), masked=False) + b"\4" + bytes(4) + payload
    Limit.request = options.request
    Limit.answer = len(answer)
    # A read cannot contain more requests than this.
    Limit.answers = answer * (len(ROOM) // Limit.request + 1)
    run_protocol(Limit)


if __name__ == "__main__":
    main()
