"""permessage-deflate (RFC 7692) through websockets' extension objects; whole messages in and out."""

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
    """The compression that one connection agreed on, with its state.

    Args:
        extension: The extension; with context takeover it remembers earlier messages.
    """

    __slots__ = ("extension",)

    def __init__(self, extension: PerMessageDeflate) -> None:
        self.extension = extension

    def compress(self, message: bytes) -> bytes:
        """Return the payload to send, whose frame has the first reserved bit set."""
        return bytes(self.extension.encode(Frame(Opcode.BINARY, message)).data)

    def decompress(self, payload: bytes, max_message_bytes: int) -> bytes:
        """Return the message of a received payload, whose fragments are joined already.

        Args:
            payload: The payload.
            max_message_bytes: The largest message; at most one byte more is ever decompressed.

        Raises:
            ProtocolError: The message is too large (1009), or the payload is no deflate data (1002).
        """
        # Allow one byte more: zlib looks at the end of a message only while there is room for output.
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
            # RFC 7692 7.2.3.4: a message may end its stream, and the next one begins another. Otherwise
            # websockets' decoder would return empty messages for everything that follows.
            self.extension.decoder = zlib.decompressobj(wbits=-self.extension.remote_max_window_bits)
        return bytes(message)


def server_extensions(compression: CompressionName | None) -> Sequence[ServerExtensionFactory] | None:
    """Return the extensions that a server accepts.

    Raises:
        UsageError: There is no such compression.
    """
    return None if check_name(compression) is None else enable_server_permessage_deflate(None)


def client_extensions(compression: CompressionName | None) -> Sequence[ClientExtensionFactory] | None:
    """Return the extensions that a client offers.

    Raises:
        UsageError: There is no such compression.
    """
    return None if check_name(compression) is None else enable_client_permessage_deflate(None)


def check_name(compression: CompressionName | None) -> CompressionName | None:
    """Return the name unchanged.

    Raises:
        UsageError: There is no such compression.
    """
    if compression not in (None, "deflate"):
        raise UsageError(f"compression is 'deflate' or None, not {compression!r}")
    return compression


def take_compression(protocol: Protocol) -> Compression | None:
    """Return the compression that an opening handshake agreed on, or None; None on a second call."""
    # The protocol and its parser refer to each other, so all it keeps would wait for the garbage collector.
    extensions, protocol.extensions = protocol.extensions, []
    for extension in extensions:
        if isinstance(extension, PerMessageDeflate):
            return Compression(extension)
    return None
