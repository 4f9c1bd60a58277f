"""Raw peers that compress their messages, with zlib alone as an oracle of RFC 7692."""

from __future__ import annotations

import struct
import zlib

from tests.kit.raw_server import Peer
from tests.kit.support import BINARY, CONTINUATION, RawClient, exclusive_or, frame

# What Chromium and Firefox offer.
BROWSER_OFFER = "permessage-deflate; client_max_window_bits"
RSV1 = 4
TAIL = b"\x00\x00\xff\xff"


class Deflate:
    """One end's compressor and decompressor.

    Args:
        takeover: Messages refer to those before them.
        bits: The base-two logarithm of the windows.
    """

    def __init__(self, *, takeover: bool = True, bits: int = 12) -> None:
        self.takeover, self.bits = takeover, bits
        self.renew()

    def renew(self) -> None:
        self.encoder = zlib.compressobj(wbits=-self.bits)
        self.decoder = zlib.decompressobj(wbits=-self.bits)

    def compress(self, message: bytes) -> bytes:
        data = self.encoder.compress(message) + self.encoder.flush(zlib.Z_SYNC_FLUSH)
        assert data.endswith(TAIL)
        if not self.takeover:
            self.encoder = zlib.compressobj(wbits=-self.bits)
        return data[:-4]

    def decompress(self, payload: bytes) -> bytes:
        message = self.decoder.decompress(payload + TAIL)
        assert not self.decoder.unconsumed_tail
        if not self.takeover:
            self.decoder = zlib.decompressobj(wbits=-self.bits)
        return message


def compressed(payload: bytes, opcode: int = BINARY, *, parts: int = 1, masked: bool = True) -> list[bytes]:
    """The frames of a message whose payload is compressed already, in so many fragments."""
    step = -(-len(payload) // parts)
    pieces = [payload[n * step : (n + 1) * step] for n in range(parts)]
    return [
        frame(
            CONTINUATION if n else opcode,
            piece,
            final=n == parts - 1,
            masked=masked,
            reserved=0 if n else RSV1,
        )
        for n, piece in enumerate(pieces)
    ]


class DeflateClient(RawClient):
    """A raw client whose `receive` decompresses, and remembers the sizes on the line."""

    deflate: Deflate
    sizes: list[int]

    async def receive(self) -> tuple[int, bytes]:
        head = await self.wait(self.reader.readexactly(2))
        size = head[1]
        if size == 126:
            (size,) = struct.unpack("!H", await self.wait(self.reader.readexactly(2)))
        elif size == 127:
            (size,) = struct.unpack("!Q", await self.wait(self.reader.readexactly(8)))
        payload = await self.wait(self.reader.readexactly(size))
        assert head[0] & 0xB0 == 0x80, "a fragment, or other reserved bits than the first"
        if head[0] & 0x40:
            self.sizes.append(size)
            payload = self.deflate.decompress(payload)
        return head[0] & 0x0F, payload

    async def say(self, message: bytes, opcode: int = BINARY, *, parts: int = 1) -> None:
        """Send a message, compressed."""
        await self.send(*compressed(self.deflate.compress(message), opcode, parts=parts))


async def deflating(port: int, deflate: Deflate | None = None, offer: str = BROWSER_OFFER) -> DeflateClient:
    """A raw client that has offered to compress; what the server agreed to stands in `agreed`."""
    client = await DeflateClient.connect(port, Sec_WebSocket_Extensions=offer)
    client.deflate = deflate or Deflate()
    client.sizes = []
    return client


def agreed(client: RawClient) -> str | None:
    """The extensions in the server's answer."""
    lines = client.head.decode().split("\r\n")
    name = "Sec-WebSocket-Extensions: "
    return next((line.removeprefix(name) for line in lines if line.startswith(name)), None)


async def receive_compressed(peer: Peer) -> tuple[bool, bytes]:
    """Whether the next message of a client is compressed, and its payload as it is."""
    (first,) = await peer.wait(peer.reader.readexactly(1))
    (second,) = await peer.wait(peer.reader.readexactly(1))
    assert first & 0xBF == 0x80 | BINARY, first
    size = second & 0x7F
    assert second & 0x80, "not masked"
    assert size < 126, "a long message"
    key = await peer.wait(peer.reader.readexactly(4))
    payload = await peer.wait(peer.reader.readexactly(size))
    return bool(first & 0x40), exclusive_or(payload, key)
