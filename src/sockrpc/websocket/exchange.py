"""An HTTP request of a client and its response, by h11; bytes in, bytes out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import h11

from sockrpc.errors import HandshakeError

__all__ = ["BODY_TIMEOUT", "REDIRECTS", "Answer", "Exchange"]

# Statuses that send the client elsewhere (RFC 9110 15.4).
REDIRECTS = frozenset({301, 302, 303, 307, 308})

# Seconds to wait for the body of a refusal: its status is known already, and some bodies never end.
BODY_TIMEOUT = 1.0
# Bytes to read of a refusal's body: it may give the reason, but it may also be a page, or never end.
BODY_BYTES = 1200
REASON_CHARACTERS = 300
# Bytes to show of data that is no HTTP response.
SHOWN_BYTES = 40

STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([2-9][0-9][0-9])[^\r\n]*\r?\n")
HTTP = b"HTTP/1."
TLS_RECORDS = (0x15, 0x16)  # the content types alert and handshake, RFC 8446 5.1


class Answer(NamedTuple):
    """A response: its head, and the part of its body that has arrived."""

    version: bytes
    status: int
    phrase: str
    headers: list[tuple[str, str]]
    body: bytes

    def field(self, name: str) -> str | None:
        """The first value of a header."""
        return next((value for each, value in self.headers if each.lower() == name), None)

    @property
    def reason(self) -> str:
        """Return the reason of a refusal for people: the text of the body, or else of the status line."""
        return self.body.decode(errors="replace").strip()[:REASON_CHARACTERS].strip() or self.phrase


class Exchange:
    """A request and its response.

    Interim responses (RFC 9110 15.2) are skipped. A refusal is complete once its body is, or enough of it.

    Args:
        max_bytes: The largest response head, up to its blank line, with interim responses before it.
        peer: The name of the responding side in messages.

    Attributes:
        answer: The response as far as it is known; None until its head is complete.
    """

    __slots__ = ("_http", "_max_bytes", "_peer", "_seen", "_size", "answer")

    def __init__(self, max_bytes: int, peer: str) -> None:
        self._max_bytes = max_bytes
        self._peer = peer
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=max_bytes)
        self._size = 0
        self._seen = b""
        self.answer: Answer | None = None

    def request(self, method: str, target: str, headers: Sequence[tuple[str, str]]) -> bytes:
        """The bytes of the request."""
        fields = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers]
        request = h11.Request(method=method, target=target, headers=fields)
        return (self._http.send(request) or b"") + (self._http.send(h11.EndOfMessage()) or b"")

    @property
    def rest(self) -> bytes:
        """The bytes received after the response."""
        return self._http.trailing_data[0]

    def receive(self, data: bytes) -> bool:
        """Feed received bytes, b"" at the end of the stream; True once `answer` is complete.

        Raises:
            HandshakeError: The bytes are no HTTP response; `status` is set if it could be read.
        """
        if self.answer is None:
            self._size += len(data)
            self._seen += data
            if not self._seen.startswith(HTTP[: len(self._seen)]):
                raise HandshakeError(self._not_http())
        try:
            self._http.receive_data(data)
            complete = self._advance()
        except h11.RemoteProtocolError as error:
            # Drop the traceback: one of its frames refers to the error, which would never be freed.
            error.__traceback__ = None
            if self.answer is not None:
                # Only the body is wrong or was cut off.
                return True
            if error.error_status_hint == 431:
                raise self._too_large() from None
            raise HandshakeError(
                f"the {self._peer}'s answer cannot be read: {error}", self._status()
            ) from error
        if self.answer is None and self._size > self._max_bytes:
            raise self._too_large()
        return complete

    def _advance(self) -> bool:
        while True:
            event = self._http.next_event()
            match event:
                case h11.InformationalResponse(status_code=status) if status != 101:
                    self._seen = self.rest
                    self._check_size()
                case h11.InformationalResponse() | h11.Response():
                    headers = [
                        (name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers
                    ]
                    phrase = bytes(event.reason).decode("latin-1")
                    self.answer = Answer(event.http_version, event.status_code, phrase, headers, b"")
                    self._check_size()
                    if event.status_code in REDIRECTS and self.answer.field("location") is not None:
                        return True
                case h11.Data(data=data) if self.answer is not None:
                    self.answer = self.answer._replace(body=self.answer.body + data)
                    if len(self.answer.body) >= BODY_BYTES:
                        return True
                case h11.NEED_DATA:
                    return False
                case _:
                    # The event is EndOfMessage, ConnectionClosed, or PAUSED, after a switch of protocols.
                    return self.answer is not None

    def _check_size(self) -> None:
        if self._size - len(self.rest) > self._max_bytes:
            raise self._too_large()

    def _too_large(self) -> HandshakeError:
        return HandshakeError(
            f"the {self._peer}'s answer is larger than {self._max_bytes} bytes", self._status()
        )

    def _status(self) -> int | None:
        """Return the status of a response whose head is incomplete, or is wrong further down."""
        match = STATUS_LINE.match(self._seen)
        return None if match is None else int(match[1])

    def _not_http(self) -> str:
        if self._seen[0] in TLS_RECORDS:
            return f"the {self._peer} answers in TLS, where plain HTTP was expected: its port is for wss"
        return f"the {self._peer}'s answer is not HTTP/1.1: it begins with {self._seen[:SHOWN_BYTES]!r}"
