"""A connection with very many calls in flight is cut, while another keeps asking for the number of aborts."""

from __future__ import annotations

import socket
import struct
import time
from types import TracebackType
from typing import Any, Self

from bench.peer import Peer, request, response_size

BATCH = 1000
# The report has two numbers of eight digits and a space: calls of `hold` that have begun, and aborted ones.
REPORT_BYTES = 17


class Observer(Peer):
    """A connection on which one call is in flight at any time."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.last_id = 0

    def counts(self) -> tuple[int, int]:
        self.last_id += 1
        self.exchange(request(self.last_id, "held", 0), response_size(REPORT_BYTES))
        begun, aborted = bytes(self.room[7 : 7 + REPORT_BYTES]).split()
        return int(begun), int(aborted)


class MassAbort:
    """Very many calls in flight on one connection to `peers.sockrpc_server`; `cut` ends them all."""

    def __init__(self, port: int, calls: int) -> None:
        self.observer = Observer(port)
        self.before = self.observer.counts()
        self.calls = calls
        self.victim = Peer(port)
        for start in range(0, calls, BATCH):
            numbers = range(start, min(start + BATCH, calls))
            self.victim.socket.sendall(b"".join(request(number, "hold", 0) for number in numbers))
        while self.observer.counts()[0] - self.before[0] < calls:
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.victim.socket.close()
        self.observer.socket.close()

    def cut(self) -> dict[str, Any]:
        """Cut the connection; return the seconds until all are aborted, and the observer's longest wait."""
        self.victim.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        begin = last = time.perf_counter()
        self.victim.socket.close()
        longest = 0.0
        answers = 0
        while True:
            _, aborted = self.observer.counts()
            now = time.perf_counter()
            longest = max(longest, now - last)
            last = now
            answers += 1
            assert aborted - self.before[1] <= self.calls
            if aborted - self.before[1] == self.calls:
                return {"seconds": now - begin, "longest_wait": longest, "answers": answers}


def mass_abort(port: int, calls: int) -> dict[str, Any]:
    with MassAbort(port, calls) as held:
        return held.cut()
