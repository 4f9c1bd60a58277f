"""A client that costs almost nothing, as its bytes are made beforehand, and a transport without a socket."""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from collections.abc import Iterable
from typing import Any, Self

SUBPROTOCOL = "websocket.io-rpc-v0.1"
PATIENCE = 60.0

OPENING = (
    "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
).encode()


def header(size: int, *, masked: bool) -> bytes:
    """Return the WebSocket header of a binary message (RFC 6455 5.2)."""
    bit = 0x80 if masked else 0
    if size < 126:
        return bytes([0x82, bit | size])
    if size < 65536:
        return bytes([0x82, bit | 126]) + struct.pack("!H", size)
    return bytes([0x82, bit | 127]) + struct.pack("!Q", size)


# A mask of zeros leaves the payload unchanged, but the server unmasks all the same.
NO_MASK = bytes(4)


def message(payload: bytes) -> bytes:
    return header(len(payload), masked=True) + NO_MASK + payload


def request(id: int, method: str, size: int) -> bytes:
    """Return a Request with a payload of `size` bytes."""
    return message(struct.pack("!BIB", 2, id, len(method)) + method.encode() + bytes(size))


def reset(id: int) -> bytes:
    return message(struct.pack("!BI", 3, id))


def response_size(size: int) -> int:
    """Return the size on the wire of a Response with a payload of `size` bytes."""
    return len(header(5 + size, masked=False)) + 5 + size


class Peer:
    """A blocking connection, past its handshake."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.room = memoryview(bytearray(1024 * 1024))
        self.socket.sendall(OPENING)
        head = b""
        while b"\r\n\r\n" not in head:
            head += self.socket.recv(4096)
        assert head.startswith(b"HTTP/1.1 101 "), head

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.socket.close()

    def exchange(self, data: bytes, wanted: int) -> None:
        """Send a little, and read until `wanted` bytes have arrived."""
        self.socket.sendall(data)
        while wanted:
            got = self.socket.recv_into(self.room)
            assert got, "the server hung up"
            wanted -= got

    def exchange_much(self, pieces: Iterable[bytes], wanted: int) -> None:
        """Send and read at the same time: the server stops reading while its answers are not read."""
        waiting = [memoryview(piece) for piece in reversed(list(pieces))]
        self.socket.setblocking(False)
        try:
            while wanted:
                readable, writable, _ = select.select(
                    [self.socket], [self.socket] if waiting else [], [], PATIENCE
                )
                assert readable or writable, "the server hangs"
                if readable:
                    got = self.socket.recv_into(self.room)
                    assert got, "the server hung up"
                    wanted -= got
                if writable:
                    piece = waiting.pop()
                    sent = self.socket.send(piece)
                    if sent < len(piece):
                        waiting.append(piece[sent:])
        finally:
            self.socket.settimeout(PATIENCE)


class NullTransport(asyncio.Transport):
    """A transport that accepts everything at once and keeps nothing, so that only the engine is measured."""

    def __init__(self) -> None:
        super().__init__()
        self.written_bytes = 0
        self.is_paused = False

    def write(self, data: Any) -> None:
        self.written_bytes += len(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


def feed(protocol: Any, data: bytes) -> None:
    """Pass bytes to a protocol as its transport would."""
    view = memoryview(data)
    while view:
        room = protocol.get_buffer(-1)
        size = min(len(room), len(view))
        room[:size] = view[:size]
        protocol.buffer_updated(size)
        view = view[size:]
