"""The server's side of the opening handshake, by websockets' Sans-I/O classes; bytes in, bytes out.

websockets parses HTTP and implements RFC 6455. This module adds: the handshake is fed only up to its
blank line (frames may follow in the same segment), its size is limited, its target and its Host must
be valid, the Origin is compared with the Host, and refusals say what would have been accepted.
"""

from __future__ import annotations

import http
import logging
import re
from collections.abc import Sequence
from email.utils import formatdate

from websockets.datastructures import Headers
from websockets.exceptions import NegotiationError
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from sockrpc.websocket.bodies import Refusal, take_framing
from sockrpc.websocket.deflate import Compression, CompressionName, server_extensions, take_compression
from sockrpc.websocket.origins import Origins, check_origin
from sockrpc.websocket.uris import read_target

__all__ = [
    "ServerHandshake",
    "pack_request",
    "plain_response",
    "serialize_response",
    "unpack_request",
]

# websockets logs the opening of each connection at level INFO; our own log has the relevant lines.
LOGGER = logging.getLogger("sockrpc.handshake")
LOGGER.setLevel(logging.WARNING)

NUL = "\0"
BLANK_LINE = b"\r\n\r\n"

# The beginning of a request, as far as it has arrived: a method, which is a token (RFC 9110 5.6.2), and a
# space.
BEGINNING = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{0,32}(?:\Z|(?<=.) )")
BEGINNING_BYTES = 33
NOT_HTTP = "This is not an HTTP/1.1 request."
TLS_HANDSHAKE = 0x16  # the content type of the first record, RFC 8446 5.1


def plain_response(status: http.HTTPStatus, text: str, headers: Sequence[tuple[str, str]] = ()) -> Response:
    """A short HTTP response of plain text."""
    body = text.encode()
    fields = Headers([("Content-Type", "text/plain; charset=utf-8"), *headers])
    return Response(status.value, status.phrase, fields, body)


def serialize_response(response: Response, *, head: bool = False) -> bytes:
    """Return the bytes of a response that ends its connection, with the fields that HTTP requires added.

    Args:
        response: The response; it is not changed.
        head: The request was HEAD, so the body is not sent.
    """
    headers = Headers(response.headers.raw_items())
    headers.setdefault("Date", formatdate(usegmt=True))
    headers.setdefault("Content-Length", str(len(response.body)))
    if "Connection" in headers:
        del headers["Connection"]
    headers["Connection"] = "close"
    body = b"" if head else response.body
    return Response(response.status_code, response.reason_phrase, headers, body).serialize()


def pack_request(request: Request) -> Request | str:
    """Pack a request into one string, which takes an eighth of the memory of its objects."""
    parts = [request.path, request.method, request.protocol]
    for item in request.headers.raw_items():
        parts += item
    packed = NUL.join(parts)
    # No part contains NUL, unless the application put it there.
    return packed if packed.count(NUL) == len(parts) - 1 else request


def unpack_request(packed: Request | str) -> Request:
    """Return the request that was passed to `pack_request`."""
    if isinstance(packed, Request):
        return packed
    path, method, protocol, *parts = packed.split(NUL)
    headers = Headers()
    for name, value in zip(parts[::2], parts[1::2], strict=True):
        # Skip the checks: the parser, or the application, has set these values.
        headers.set_insecure(name, value)
    return Request(path, headers, method, protocol)


class ServerHandshake:
    """The server's side of one opening handshake.

    Args:
        max_handshake_bytes: The largest opening request, up to its blank line; a larger one gets 431.
        subprotocols: The server's subprotocols in order of preference; None for plain WebSocket.
        compression: The compression to accept if the client offers it.

    Attributes:
        rest: The bytes received after the request, which are the first frames.
        body_size: The size of the body that the request announces, in bytes; None if it announces none.
    """

    __slots__ = ("body_size", "max_handshake_bytes", "protocol", "received", "rest")

    def __init__(
        self,
        max_handshake_bytes: int,
        subprotocols: Sequence[str] | None,
        compression: CompressionName | None = None,
    ) -> None:
        self.max_handshake_bytes = max_handshake_bytes
        self.protocol = ServerProtocol(
            extensions=server_extensions(compression),
            subprotocols=known_subprotocols(subprotocols),
            select_subprotocol=None if subprotocols is None else select_subprotocol,
            logger=LOGGER,
        )
        self.received = bytearray()
        self.rest = b""
        self.body_size: int | None = None

    def receive(self, data: bytes) -> Request | Response | None:
        """Feed received bytes; None while the request is incomplete, a Response if it is refused early."""
        searched = max(0, len(self.received) - len(BLANK_LINE) + 1)
        is_beginning = len(self.received) < BEGINNING_BYTES
        self.received += data
        if is_beginning and not BEGINNING.match(self.received[:BEGINNING_BYTES]):
            # The end of the request may never come: a TLS client waits for a response first.
            tls = self.received[0] == TLS_HANDSHAKE
            hint = " It begins a TLS handshake; this port is for ws, not wss." if tls else ""
            return plain_response(http.HTTPStatus.BAD_REQUEST, NOT_HTTP + hint + "\n")
        end = self.received.find(BLANK_LINE, searched)
        size = len(self.received) if end < 0 else end + len(BLANK_LINE)
        if size > self.max_handshake_bytes:
            return plain_response(
                http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"The request is larger than {self.max_handshake_bytes} bytes.\n",
            )
        if end < 0:
            return None
        self.rest = bytes(self.received[size:])
        framed = take_framing(bytes(self.received[:size]))
        self.received = bytearray()
        if isinstance(framed, Refusal):
            return plain_response(framed.status, framed.text + "\n")
        self.protocol.receive_data(framed.head)
        for event in self.protocol.events_received():
            if isinstance(event, Request):
                framed.restore(event)
                self.body_size = framed.size
                fault = read_target(event)
                return event if fault is None else plain_response(http.HTTPStatus.BAD_REQUEST, fault + "\n")
        # websockets has refused it, with a response of its own or by closing silently.
        if b"".join(self.protocol.data_to_send()):
            status = http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            return plain_response(status, f"{self.protocol.handshake_exc}\n")
        return plain_response(http.HTTPStatus.BAD_REQUEST, NOT_HTTP + "\n")

    def answer(self, request: Request, *, path: str | None, origins: Origins) -> Response:
        """Return the response to an opening request: 101, or a refusal with its reason.

        Args:
            request: The return value of `receive`.
            path: The path of the endpoint, without a query; None accepts every path.
            origins: Origins that are allowed besides the server's own host; "*" allows all.
        """
        if path is not None and request.path.partition("?")[0] != path:
            return plain_response(http.HTTPStatus.NOT_FOUND, "There is nothing here.\n")
        version = request.headers.get_all("Sec-WebSocket-Version")
        if version and version != ["13"]:
            # RFC 6455 4.2.2 and 4.4
            return plain_response(
                http.HTTPStatus.UPGRADE_REQUIRED,
                "This server speaks WebSocket version 13.\n",
                [("Sec-WebSocket-Version", "13"), ("Upgrade", "websocket")],
            )
        response = self.protocol.accept(request)
        if response.status_code != 101:
            return response
        if self.body_size != 0:
            return plain_response(
                http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "A request that opens a WebSocket has no body.\n"
            )
        refusal = check_origin(request, origins)
        return response if refusal is None else plain_response(http.HTTPStatus.FORBIDDEN, refusal + "\n")

    @property
    def subprotocol(self) -> str | None:
        """The agreed subprotocol."""
        return self.protocol.subprotocol

    def take_compression(self) -> Compression | None:
        """Return the agreed compression of messages; None on a second call."""
        return take_compression(self.protocol)


def known_subprotocols(names: Sequence[str] | None) -> list[Subprotocol] | None:
    """Names of subprotocols as websockets types them."""
    return None if names is None else [Subprotocol(each) for each in names]


def select_subprotocol(protocol: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol:
    """Return the first offered subprotocol that is spoken here; raise rather than guess."""
    spoken = protocol.available_subprotocols or []
    for each in offered:
        if each in spoken:
            return each
    what = "no subprotocol was offered" if not offered else "none of the offered subprotocols is spoken here"
    raise NegotiationError(f"{what}; this server speaks: {', '.join(spoken)}")
