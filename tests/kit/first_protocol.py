"""What a peer of websocket.io-rpc-v0.1 sees, byte for byte, in a few conversations with each end of ours.

As a program it prints that as JSON. tests/recorded_v0.1.json is what it printed before there was a second
protocol, so it uses nothing that came with that.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import struct
import sys
from typing import Any

import sockrpc
from tests.kit.raw_server import RawServer, notification, response
from tests.kit.support import BINARY, CLOSE, PING, TEXT, RawClient, frame, notify, request, reset

PATIENCE = 10.0
# Fields of the opening request that differ each time, or with each version.
OTHERS = {"sec-websocket-key", "host", "user-agent"}


def make_app() -> sockrpc.App:
    app = sockrpc.App()
    app.method("echo")(lambda call: call.payload)
    unwound = asyncio.Event()

    @app.method("later")
    async def later(call: sockrpc.Call) -> bytes:
        await asyncio.sleep(0)
        return b"later " + call.payload

    @app.method("wait")
    async def wait(call: sockrpc.Call) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            unwound.set()

    @app.method("unwound")
    async def is_unwound(call: sockrpc.Call) -> bytes:
        await unwound.wait()
        return b"yes"

    @app.method("bug")
    def bug(call: sockrpc.Call) -> None:
        raise ZeroDivisionError

    @app.method("close")
    async def close(call: sockrpc.Call) -> None:
        await call.socket.close(4000, call.text)

    @app.on("tick")
    async def tick(event: sockrpc.Notification) -> None:
        await event.socket.notify("tock", event.payload)

    return app


# What a client sends after the opening handshake, and how many frames come for each piece before it sends
# the next; the last piece leads to the end of the connection.
CONVERSATIONS: dict[str, list[tuple[bytes, int]]] = {
    "answers of all sizes": [
        *(
            (request(n, "echo", bytes(size)), 1)
            for n, size in enumerate((0, 1, 120, 121, 65_530, 65_531, 70_000))
        ),
        (frame(CLOSE, struct.pack("!H", 1000)), 0),
    ],
    "many at once": [
        (b"".join(request(n, "echo", b"%d" % n) for n in range(1, 50)), 49),
        (frame(CLOSE), 0),
    ],
    "coroutines": [(request(1, "later", b"x"), 1), (request(7, "later", b"y"), 1), (frame(CLOSE), 0)],
    "notifications": [
        (notify("tick", b"1"), 1),
        (notify("nobody", b"2") + notify("tick", bytes(300)), 1),
        (frame(CLOSE), 0),
    ],
    "calls that fail are not answered": [
        (request(1, "bug") + request(2, "nobody") + frame(PING, b"still there"), 1),
        (request(1, "echo", b"the id is free"), 1),
        (frame(CLOSE), 0),
    ],
    "a reset is not answered": [
        (request(1, "wait") + reset(1) + reset(1) + reset(99) + request(1, "unwound"), 1),
        (frame(CLOSE), 0),
    ],
    "the last id": [
        (request(2**32 - 1, "echo", b"x") + request(2**31, "echo", b"y"), 2),
        (frame(CLOSE), 0),
    ],
    "the application closes": [(request(1, "close", b"good-bye"), 0)],
    "pings": [
        (frame(PING), 1),
        (frame(PING, bytes(125)), 1),
        (frame(CLOSE, struct.pack("!H", 4999) + b"enough"), 0),
    ],
    "an id in use": [(request(1, "wait") + request(1, "wait"), 0)],
    "text": [(frame(TEXT, b"hello"), 0)],
    "nothing": [(frame(BINARY), 0)],
    "a frame too short": [(frame(BINARY, b"\2\0\0"), 0)],
    "a name that is not UTF-8": [(frame(BINARY, b"\2\0\0\0\1\2\xff\xff"), 0)],
    **{f"opcode {n}": [(frame(BINARY, bytes([n]) + bytes(20)), 0)] for n in (0, *range(4, 15), 255)},
}


async def server_says(port: int, sent: list[tuple[bytes, int]]) -> bytes:
    """Everything that a server sends in one conversation."""
    async with await RawClient.connect(port) as client, asyncio.timeout(PATIENCE):
        said = bytearray(re.sub(rb"Date: [^\r]*\r\n", b"", client.head))
        for piece, count in sent:
            await client.send(piece)
            for _ in range(count):
                said += await whole_frame(client.reader)
        return bytes(said + await client.reader.read(-1))


async def whole_frame(reader: asyncio.StreamReader) -> bytes:
    """The bytes of the next frame (RFC 6455 5.2), which has no mask."""
    head = await reader.readexactly(2)
    size = head[1]
    if size >= 126:
        head += await reader.readexactly(2 if size == 126 else 8)
        size = int.from_bytes(head[2:])
    return head + await reader.readexactly(size)


async def client_says(**options: Any) -> list[str]:
    """Everything that a client sends to a server of that protocol, unmasked; its key and mask are random."""
    said = []
    async with RawServer() as server:
        connecting = asyncio.ensure_future(open_client(server.uri, options))
        peer = await server.accept()
        fields = {name: value for name, value in peer.fields.items() if name not in OTHERS}
        said.append(json.dumps([peer.request_line, *sorted(fields.items())]))
        client = await connecting

        async def heard() -> int:
            opcode, payload = await peer.receive()
            said.append(f"{opcode} {shown(payload)}")
            return struct.unpack("!I", payload[1:5])[0] if len(payload) >= 5 else 0

        for size in (0, 100, 70_000):
            call = asyncio.ensure_future(client.call("echo", bytes(size)))
            await peer.send(response(await heard(), b"x"))
            await call
        call = asyncio.ensure_future(client.call("wait"))
        await heard()
        call.cancel()
        await heard()
        with contextlib.suppress(TimeoutError):
            call = asyncio.ensure_future(client.call("wait", timeout=0.05))
            await heard()
            await heard()
            await call
        await client.notify("tick", "1")
        await heard()
        events = client.on("tock")
        await peer.send(notification("tock", b"1"))
        said.append(shown(await anext(events)))
        closing = asyncio.ensure_future(client.close(4000, "enough"))
        await heard()
        await peer.close_politely(4000)
        await peer.finish()
        await closing
    return said


async def open_client(uri: str, options: dict[str, Any]) -> sockrpc.Client:
    return await sockrpc.connect(uri, **options)


def shown(data: bytes) -> str:
    """The bytes, or how many there are and their hash."""
    return data.hex() if len(data) <= 400 else f"{len(data)} bytes, {hashlib.sha256(data).hexdigest()}"


async def record() -> dict[str, Any]:
    async with sockrpc.serve(make_app(), "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        return {
            "server": {name: shown(await server_says(port, sent)) for name, sent in CONVERSATIONS.items()},
            "client": await client_says(),
        }


if __name__ == "__main__":
    json.dump(asyncio.run(record()), sys.stdout, indent=1)
    sys.stdout.write("\n")
