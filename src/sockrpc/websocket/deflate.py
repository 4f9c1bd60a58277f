"""permessage-deflate (RFC 7692), by websockets' extension objects; whole messages in and out."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from websockets.exceptions import PayloadTooBig
from websockets.exceptions import ProtocolError as FrameError
from websockets.extensions import ClientExtensionFactory, ServerExtensionFactory
from websockets.extensions.permessage_deflate import (
    PerMessageDeflate,
    enable_client_permessage_deflate,
    enable_server_permessage_deflate,
)
from websockets.frames import Frame, Opcode

from sockrpc.errors import ProtocolError, UsageError

if TYPE_CHECKING:
    from websockets.protocol import Protocol

__all__ = [
    "Compression",
    "CompressionName",
    "check_name",
    "client_extensions",
    "server_extensions",
    "take_compression",
]

CompressionName = Literal["deflate"]


class Compression:
    """What one connection has agreed on for its messages, and the state that goes with it.

    Args:
        extension: The extension; with context takeover it remembers the messages before.
    """

    __slots__ = ("extension",)

    def __init__(self, extension: PerMessageDeflate) -> None:
        self.extension = extension

    def compress(self, message: bytes) -> bytes:
        """The payload to send, with its first reserved bit set."""
        return bytes(self.extension.encode(Frame(Opcode.BINARY, message)).data)

    def decompress(self, payload: bytes, max_message_bytes: int) -> bytes:
        """The message whose payload was received, its fragments put together.

        Args:
            payload: The payload.
            max_message_bytes: The largest message; no more than that, and one byte, is ever decompressed.

        Raises:
            ProtocolError: The message is too large (1009), or this is not what deflate makes (1002).
        """
        # One byte more: zlib looks at the end of a message only while there is room for output.
        frame = Frame(Opcode.BINARY, payload, rsv1=True)
        try:
            message = self.extension.decode(frame, max_size=max_message_bytes + 1).data
        except PayloadTooBig:
            raise ProtocolError(1009, f"message over {max_message_bytes} bytes") from None
        except FrameError as error:
            raise ProtocolError(1002, str(error)) from None
        if len(message) > max_message_bytes:
            raise ProtocolError(1009, f"message over {max_message_bytes} bytes")
        if not self.extension.remote_no_context_takeover and self.extension.decoder.eof:
            # RFC 7692 7.2.3.4: a message may end its stream, and the next one begins another. Of all that
            # follows, websockets' decoder would make empty messages.
            self.extension.decoder = zlib.decompressobj(wbits=-self.extension.remote_max_window_bits)
        return bytes(message)


def server_extensions(compression: CompressionName | None) -> Sequence[ServerExtensionFactory] | None:
    """What a server agrees to.

    Raises:
        UsageError: There is no such compression.
    """
    return None if check_name(compression) is None else enable_server_permessage_deflate(None)


def client_extensions(compression: CompressionName | None) -> Sequence[ClientExtensionFactory] | None:
    """What a client offers.

    Raises:
        UsageError: There is no such compression.
    """
    return None if check_name(compression) is None else enable_client_permessage_deflate(None)


def check_name(compression: CompressionName | None) -> CompressionName | None:
    """The name as it is.

    Raises:
        UsageError: There is no such compression.
    """
    if compression not in (None, "deflate"):
        raise UsageError(f"compression is 'deflate' or None, not {compression!r}")
    return compression


def take_compression(protocol: Protocol) -> Compression | None:
    """What an opening handshake agreed on for messages, None for nothing; a second time None."""
    # The protocol refers to itself by its parser, so what it keeps waits for the garbage collector.
    extensions, protocol.extensions = protocol.extensions, []
    for extension in extensions:
        if isinstance(extension, PerMessageDeflate):
            return Compression(extension)
    return None
