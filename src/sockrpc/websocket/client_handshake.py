"""The client's side of the opening handshake; bytes in, bytes out.

h11 reads HTTP, and websockets implements the rules of RFC 6455.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.http11 import Response
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from sockrpc.errors import HandshakeError
from sockrpc.texts import printable
from sockrpc.websocket.deflate import (
    Compression,
    CompressionName,
    client_extensions,
    take_compression,
)
from sockrpc.websocket.exchange import REDIRECTS, Answer, Exchange
from sockrpc.websocket.headers import USER_AGENT, merge_headers
from sockrpc.websocket.protocols import PROTOCOL_V0, is_refusal_of_offer

__all__ = ["ClientHandshake"]

LOGGER = logging.getLogger("sockrpc.handshake")


class ClientHandshake:
    """The client's side of one opening handshake.

    Args:
        uri: The URI to connect to.
        max_handshake_bytes: The largest response head, up to its blank line.
        subprotocols: The subprotocols to offer, in order of preference; None for plain WebSocket.
        compression: The compression to offer.
        headers: Further headers to send; some replace our own.
    """

    def __init__(
        self,
        uri: WebSocketURI,
        *,
        max_handshake_bytes: int,
        subprotocols: Sequence[str] | None,
        headers: Sequence[tuple[str, str]],
        compression: CompressionName | None = None,
    ) -> None:
        self.protocol = ClientProtocol(
            uri,
            extensions=client_extensions(compression),
            subprotocols=None if subprotocols is None else [Subprotocol(each) for each in subprotocols],
            logger=LOGGER,
        )
        self.headers = headers
        self.exchange = Exchange(max_handshake_bytes, "server")

    def request(self) -> bytes:
        """The bytes of the opening request."""
        request = self.protocol.connect()
        self.protocol.send_request(request)
        self.protocol.data_to_send()
        ours = [*request.headers.raw_items(), ("User-Agent", USER_AGENT)]
        return self.exchange.request("GET", request.path, merge_headers(ours, self.headers))

    def receive(self, data: bytes) -> bool:
        """Feed received bytes, b"" at the end of the stream; True once the connection is open.

        Raises:
            HandshakeError: The server refused, or did not answer in HTTP.
        """
        if not self.exchange.receive(data):
            return False
        self.judge()
        return True

    @property
    def is_refused(self) -> bool:
        """True once the connection is known to be refused, even if the reason is not complete yet."""
        return self.exchange.answer is not None and self.exchange.answer.status != 101

    def refusal(self, answer: Answer) -> HandshakeError:
        """Return the error that says how the server, or a proxy, has refused."""
        location = answer.field("location") if answer.status in REDIRECTS else None
        error = HandshakeError(answer.reason, answer.status, location)
        if len(self.protocol.available_subprotocols or ()) > 1 and is_refusal_of_offer(answer.status):
            error.add_note(f"a server may refuse an offer of two protocols and take {PROTOCOL_V0} alone")
        return error

    def judge(self) -> None:
        """Compare the response, as far as it has arrived, with the request.

        Raises:
            HandshakeError: The response opens no connection.
        """
        answer = self.exchange.answer
        assert answer is not None
        if answer.status != 101:
            # A variable here would refer to the error, and its traceback to this frame.
            raise self.refusal(answer)
        if answer.version != b"1.1":
            raise HandshakeError("the server confirms a WebSocket in HTTP/1.0, which has none")
        # Pass only the fields that websockets judges: it has limits of its own for lines and their number.
        head = Headers()
        for name, value in answer.headers:
            if name.lower() in {"upgrade", "connection"} or name.lower().startswith("sec-websocket-"):
                # websockets quotes them in its error messages.
                head.set_insecure(name, printable(value))
        self.protocol.receive_data(Response(101, "Switching Protocols", head).serialize())
        fault = self.protocol.handshake_exc
        if fault is not None:
            cause = "" if fault.__cause__ is None else f": {fault.__cause__}"
            raise HandshakeError(f"{fault}{cause}") from fault
        if self.protocol.available_subprotocols and self.protocol.subprotocol is None:
            raise HandshakeError("the server confirmed no subprotocol")

    @property
    def rest(self) -> bytes:
        """The bytes received after the response, which are the first frames."""
        return self.exchange.rest

    @property
    def subprotocol(self) -> str | None:
        """The agreed subprotocol."""
        return self.protocol.subprotocol

    def take_compression(self) -> Compression | None:
        """Return the agreed compression of messages; None on a second call."""
        return take_compression(self.protocol)
