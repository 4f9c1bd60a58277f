"""Throughput over the loopback network, server and client in one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import sockrpc

try:
    from sockrpc.testing.wire import Request, serialize, serialize_frame
except ImportError:
    # The base of a comparison may predate this module, and the folders too.
    from sockrpc._frames import Request, serialize_frame  # type: ignore[attr-defined,no-redef]

    try:
        from sockrpc.websocket.parser import serialize  # type: ignore[attr-defined,no-redef]
    except ImportError:
        from sockrpc._websocket import serialize  # type: ignore[import-not-found,no-redef]

BURST = 100
IN_FLIGHT = 256
PAYLOAD = bytes(32)
# A header of two bytes, then opcode and id (PROTOCOL.md, Frames).
ANSWER_BYTES = 2 + 5 + len(PAYLOAD)
OPENING = (
    "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    f"Sec-WebSocket-Protocol: {sockrpc.SUBPROTOCOL}\r\n\r\n"
).encode()

app = sockrpc.App()


@app.method("echo")
async def echo(call: sockrpc.Call) -> bytes:
    return call.payload


@app.method("burst")
def burst(call: sockrpc.Call) -> None:
    for _ in range(BURST):
        call.socket.notify_nowait("news", call.payload)


# The base of a comparison may predate the second protocol.
HAS_V1 = hasattr(sockrpc, "RPCError")
ITEMS = 1000

if HAS_V1:

    @app.method("items")
    async def items(call: sockrpc.Call) -> AsyncIterator[bytes]:
        for _ in range(ITEMS):
            yield PAYLOAD

    @app.method("count")
    async def count(call: sockrpc.Call) -> str:
        return str(len([item async for item in call.items()]))


@app.on("news")
def news(notification: sockrpc.Notification) -> None:
    pass


async def bench_answers_to_ready_made_bytes(bench: Any) -> AsyncIterator[Callable[[], object]]:
    """Measure the server's throughput: the client costs almost nothing."""
    frames = [serialize_frame(Request(number, "echo", PAYLOAD)) for number in range(IN_FLIGHT)]
    data = b"".join(serialize("binary", frame, masked=True) for frame in frames)
    async with bench.loopback(app) as here:
        port = here.server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(OPENING)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")

        async def exchange() -> None:
            writer.write(data)
            await reader.readexactly(IN_FLIGHT * ANSWER_BYTES)

        yield exchange
        writer.close()
        await writer.wait_closed()


async def bench_one_call(bench: Any) -> AsyncIterator[Callable[[], object]]:
    async with bench.loopback(app) as here:
        yield lambda: here.client.call("echo", PAYLOAD)


async def bench_calls_in_flight(bench: Any) -> AsyncIterator[Callable[[], object]]:
    async with bench.loopback(app) as here:
        yield lambda: here.calls(64, "echo", PAYLOAD)


async def bench_notifications_of_a_client(bench: Any) -> AsyncIterator[Callable[[], object]]:
    async with bench.loopback(app) as here:

        async def notify() -> None:
            for _ in range(BURST):
                await here.client.notify("news", PAYLOAD)
            # The answer comes only after all notifications were handled.
            await here.client.call("echo")

        yield notify


async def bench_notifications_of_a_server(bench: Any) -> AsyncIterator[Callable[[], object]]:
    async with bench.loopback(app) as here:
        listener = here.client.on("news")

        async def listen() -> None:
            await here.client.call("burst", PAYLOAD)
            for _ in range(BURST):
                await anext(listener)

        yield listen


if HAS_V1:
    V1 = ("sockrpc.v1",)

    async def bench_calls_in_flight_of_v1(bench: Any) -> AsyncIterator[Callable[[], object]]:
        async with bench.loopback(app) as here:
            client = await here.connect(protocols=V1)
            yield lambda: asyncio.gather(*(client.call("echo", PAYLOAD) for _ in range(64)))

    async def bench_stream_of_a_server(bench: Any) -> AsyncIterator[Callable[[], object]]:
        async with bench.loopback(app) as here:
            client = await here.connect(protocols=V1)

            async def read() -> None:
                count = 0
                async for _ in client.stream("items"):
                    count += 1
                assert count == ITEMS

            yield read

    async def bench_stream_of_a_client(bench: Any) -> AsyncIterator[Callable[[], object]]:
        async with bench.loopback(app) as here:
            client = await here.connect(protocols=V1)
            payloads = [PAYLOAD] * ITEMS

            async def send() -> None:
                assert await client.call("count", items=payloads) == b"%d" % ITEMS

            yield send
