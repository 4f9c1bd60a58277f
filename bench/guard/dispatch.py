"""The engine of a server without a socket: from the bytes of a read to those of its answers."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import sockrpc

try:
    from sockrpc.testing.wire import Request, Reset, serialize, serialize_frame
except ImportError:
    # The base of a comparison may predate this module, and the folders too.
    from sockrpc._frames import Request, Reset, serialize_frame  # type: ignore[attr-defined,no-redef]

    try:
        from sockrpc.websocket.parser import serialize  # type: ignore[attr-defined,no-redef]
    except ImportError:
        from sockrpc._websocket import serialize  # type: ignore[import-not-found,no-redef]

try:
    from sockrpc.peer.peer import Peer as Protocol
except ImportError:
    from sockrpc.protocols import ServerProtocol  # type: ignore[import-not-found]

    def Protocol(role: str, service: Any) -> Any:  # type: ignore[no-redef]  # noqa: N802
        return ServerProtocol(service)


# This is few enough for one share of the handlers' time (docs/reference/limits.md) even under valgrind.
CALLS = 40
# So many items have credit from the beginning: each costs 64 bytes more than its payload.
ITEMS = 400
ITEM = bytes(32)
# The base of a comparison may predate the second protocol.
HAS_V1 = hasattr(sockrpc, "RPCError")
TIMEOUT, SENDS_ITEMS, TAKES_ITEMS = 1, 4, 8
# Calls, window, bytes of a message.
HELLO = struct.pack("!BBIII", 10, 0, 1000, 65536, 1 << 20)

app = sockrpc.App()


@app.method("plain")
def plain(call: sockrpc.Call) -> bytes:
    return call.payload


@app.method("coroutine")
async def coroutine(call: sockrpc.Call) -> bytes:
    return call.payload


@app.method("suspending")
async def suspending(call: sockrpc.Call) -> bytes:
    await asyncio.sleep(0)
    return call.payload


@app.method("waiting")
async def waiting(call: sockrpc.Call) -> None:
    await asyncio.get_running_loop().create_future()


if HAS_V1:

    @app.method("items")
    async def items(call: sockrpc.Call) -> AsyncIterator[bytes]:
        for _ in range(ITEMS):
            yield ITEM

    @app.method("count")
    async def count(call: Any) -> str:
        return str(len([item async for item in call.items()]))

    @app.method("failing")
    def failing(call: sockrpc.Call) -> None:
        raise sockrpc.RPCError(sockrpc.Code.NOT_FOUND, "no such thing")


class Nowhere(asyncio.Transport):
    """A transport that accepts everything at once and keeps nothing."""

    def write(self, data: Any) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


class Engine:
    """One open connection of a server."""

    def __init__(self, protocol: str = "") -> None:
        serving = sockrpc.serve(app, port=0, ping_interval=None, stall_timeout=None, blocked_warning=None)
        # `serve` makes this before it listens; the base of a comparison makes it in its own way.
        server, _ = serving._make()
        self.service = server._service
        self.transport = Nowhere()
        self.protocol = Protocol("server", self.service)
        self.protocol.connection_made(self.transport)
        self.protocol.open(b"")
        if protocol:
            self.protocol.speak(protocol)
            self.feed(binary(HELLO))
        else:
            self.protocol.socket._opened("guard")
        self.protocol.begin()

    def feed(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            room = self.protocol.get_buffer(-1)
            size = min(len(room), len(view))
            room[:size] = view[:size]
            self.protocol.buffer_updated(size)
            view = view[size:]

    async def answered(self, data: bytes, calls: int = CALLS) -> None:
        """Feed a read, and wait for the answers to it."""
        wanted = self.service.counters()["calls_answered"] + calls
        self.feed(data)
        # Waiting until none is in flight would not do: when a share is used up, the rest of a read is still
        # to come.
        while self.service.counters()["calls_answered"] < wanted:  # noqa: ASYNC110
            await asyncio.sleep(0)

    async def reset(self, requests: bytes, resets: bytes) -> None:
        """Feed calls that wait, then their resets, and wait until all work has ended."""
        wanted = self.service.counters()["calls_reset"] + CALLS
        self.feed(requests)
        # On 3.11 the first steps of the calls come in the next iteration.
        await asyncio.sleep(0)
        self.feed(resets)
        while self.service.counters()["calls_reset"] < wanted or self.protocol.load[0]:  # noqa: ASYNC110
            await asyncio.sleep(0)


def binary(data: bytes) -> bytes:
    return serialize("binary", data, masked=True)


def message(frame: Request | Reset) -> bytes:
    return binary(serialize_frame(frame))


def open_frame(number: int, method: str, flags: int, options: bytes = b"", payload: bytes = b"") -> bytes:
    return binary(
        struct.pack("!BIB", 5, number, flags) + options + bytes([len(method)]) + method.encode() + payload
    )


def read_of(method: str) -> bytes:
    return b"".join(message(Request(number, method, ITEM)) for number in range(1, CALLS + 1))


async def answering(
    reads: list[bytes], protocol: str = "", calls: int = CALLS
) -> AsyncIterator[Callable[[], object]]:
    engine = Engine(protocol)

    async def answer() -> None:
        for read in reads:
            await engine.answered(read, calls)

    yield answer
    counters = engine.service.counters()
    assert counters["calls_answered"] == counters["calls_started"] > 0
    engine.protocol.connection_lost(None)


KINDS = ("plain", "coroutine", "suspending")


async def bench_dispatch() -> AsyncIterator[Callable[[], object]]:
    """Measure calls of plain functions and of coroutines, each kind in a read of its own."""
    async for operation in answering([read_of(method) for method in KINDS]):
        yield operation


async def bench_dispatch_of_resets() -> AsyncIterator[Callable[[], object]]:
    engine = Engine()
    requests = read_of("waiting")
    resets = b"".join(message(Reset(number)) for number in range(1, CALLS + 1))
    yield lambda: engine.reset(requests, resets)
    counters = engine.service.counters()
    assert counters["calls_reset"] == counters["calls_started"] > 0
    engine.protocol.connection_lost(None)


if HAS_V1:
    V1 = "sockrpc.v1"

    async def bench_dispatch_of_v1() -> AsyncIterator[Callable[[], object]]:
        """Measure the same calls in the second protocol."""
        async for operation in answering([read_of(method) for method in KINDS], V1):
            yield operation

    async def bench_timeouts() -> AsyncIterator[Callable[[], object]]:
        """Measure the same calls with a time-out of a minute."""
        options = struct.pack("!I", 60_000)
        numbers = range(1, CALLS + 1)
        reads = [
            b"".join(open_frame(each, kind, TIMEOUT, options, ITEM) for each in numbers) for kind in KINDS
        ]
        async for operation in answering(reads, V1):
            yield operation

    async def bench_server_stream() -> AsyncIterator[Callable[[], object]]:
        """Measure a stream that ends while it has credit."""
        async for operation in answering([open_frame(1, "items", TAKES_ITEMS)], V1, 1):
            yield operation

    async def bench_client_stream() -> AsyncIterator[Callable[[], object]]:
        """Measure a stream whose items come in one read."""
        item = binary(struct.pack("!BI", 6, 1) + ITEM)
        end = binary(struct.pack("!BI", 7, 1))
        async for operation in answering([open_frame(1, "count", SENDS_ITEMS) + item * ITEMS + end], V1, 1):
            yield operation

    async def bench_errors() -> AsyncIterator[Callable[[], object]]:
        """Measure calls that a plain function refuses."""
        engine = Engine(V1)
        read = read_of("failing")

        async def fail() -> None:
            wanted = engine.service.counters()["calls_failed"] + CALLS
            engine.feed(read)
            while engine.service.counters()["calls_failed"] < wanted:  # noqa: ASYNC110
                await asyncio.sleep(0)

        yield fail
        engine.protocol.connection_lost(None)
