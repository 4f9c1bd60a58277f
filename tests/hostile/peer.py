"""A WebSocket client of plain, blocking sockets: large writes, and answers counted or thrown away."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import socket
import ssl
import struct
from collections.abc import Iterable, Iterator
from typing import Any, Self

from tests.kit.support import BINARY, SUBPROTOCOL, opening
from tests.kit.v1_peer import hello

PATIENCE = 30.0

# A mask of zeros is a mask: what is sent is what one reads here.
NO_MASK = bytes(4)

__all__ = ["PATIENCE", "SUBPROTOCOL", "Peer", "head", "message", "request", "reset"]


def head(opcode: int, size: int, *, final: bool = True) -> bytes:
    """The header of a client's frame."""
    first = (0x80 if final else 0) | opcode
    if size < 126:
        return bytes([first, 0x80 | size]) + NO_MASK
    if size < 65536:
        return bytes([first, 0x80 | 126]) + struct.pack("!H", size) + NO_MASK
    return bytes([first, 0x80 | 127]) + struct.pack("!Q", size) + NO_MASK


def message(payload: bytes) -> bytes:
    return head(BINARY, len(payload)) + payload


def request(id: int, name: str, payload: bytes = b"") -> bytes:
    encoded = name.encode()
    return message(b"\x02" + struct.pack("!I", id) + bytes([len(encoded)]) + encoded + payload)


def reset(id: int) -> bytes:
    return message(b"\x03" + struct.pack("!I", id))


class Peer:
    """One connection; `opened` false: nothing but TCP (and TLS). With v1 it has said Hello."""

    def __init__(
        self, port: int, *, opened: bool = True, tls: bool = False, path: str = "/socket", v1: bool = False
    ) -> None:
        line = socket.create_connection(("127.0.0.1", port), PATIENCE)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            line = context.wrap_socket(line)
        self.line = line
        self.buffer = self.seen = b""
        if opened:
            try:
                protocol = "sockrpc.v1" if v1 else SUBPROTOCOL
                line.sendall(opening(path, Sec_WebSocket_Protocol=protocol))
                if v1:
                    line.sendall(message(hello()))
                answer = self.until(b"\r\n\r\n")
                assert answer.startswith(b"HTTP/1.1 101 "), answer
            except BaseException:
                line.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.line.close()

    def send(self, data: bytes) -> None:
        self.line.sendall(data)

    def cut(self) -> None:
        """End with a TCP reset."""
        self.line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.line.close()

    def more(self) -> None:
        data = self.line.recv(1 << 16)
        if not data:
            raise EOFError
        self.buffer += data

    def until(self, mark: bytes) -> bytes:
        while mark not in self.buffer:
            self.more()
        found, _, self.buffer = self.buffer.partition(mark)
        self.seen = found
        return found + mark

    def exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            self.more()
        found, self.buffer = self.buffer[:size], self.buffer[size:]
        return found

    def receive(self) -> tuple[int, bytes]:
        first, size = self.exactly(2)
        if size == 126:
            (size,) = struct.unpack("!H", self.exactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self.exactly(8))
        return first & 15, self.exactly(size)

    def call(self, id: int, name: str, payload: bytes = b"") -> bytes:
        """Call, and wait for this answer; others before it are thrown away."""
        self.send(request(id, name, payload))
        while True:
            opcode, answer = self.receive()
            if opcode == BINARY and answer[:5] == b"\x04" + struct.pack("!I", id):
                return answer[5:]

    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.call(0xFFFF_FFFF, "report"))
        return report

    def rest(self) -> bytes:
        """Everything up to the end, however the connection ends."""
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                self.more()
        return self.buffer

    def close_code(self) -> int:
        """The code of the close frame, which must be the next frame but answers and pongs."""
        while True:
            opcode, payload = self.receive()
            if opcode == 8:
                return int(struct.unpack("!H", payload[:2])[0])

    @contextlib.contextmanager
    def drained(self) -> Iterator[None]:
        """Throw away what is received meanwhile, in a thread; sending does not wait for reading.

        Ends when everything that was sent has been acted on.
        """
        last = b"the last answer of all"

        def drain() -> None:
            # Ends of calls of sockrpc.v1 may come behind it.
            tail = b""
            while last not in tail:
                data = self.line.recv(1 << 18)
                assert data, "the connection has ended"
                tail = tail[-len(last) :] + data

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            draining = pool.submit(drain)
            try:
                yield
                self.send(request(0x7FFF_FFFD, "echo", last))
                draining.result(PATIENCE)
            except BaseException:
                self.line.shutdown(socket.SHUT_RDWR)
                raise

    def send_until_cut(self, data: bytes) -> None:
        """Send it again and again until the server has ended the connection."""
        with contextlib.suppress(ConnectionError):
            while True:
                self.send(data)

    def flood(self, parts: Iterable[bytes]) -> None:
        for part in parts:
            self.send(part)
