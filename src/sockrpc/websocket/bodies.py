"""Framing of request bodies, which no opening handshake has, so that such requests get a truthful answer.

websockets' parser refuses every request with a body. So the fields that frame a body (RFC 9112 section 6)
are cut out of the head before it is parsed, and restored in the resulting request.
"""

from __future__ import annotations

import http
import re
from typing import NamedTuple

from websockets.http11 import Request

__all__ = ["Framed", "Refusal", "take_framing"]

VERSION = re.compile(rb" HTTP/([0-9]\.[0-9])\r\n")
FIELD = re.compile(rb"\r\n(content-length|transfer-encoding):([^\r\n]*)(?=\r\n)", re.IGNORECASE)
LENGTH = re.compile(r"[0-9]{1,18}")


class Framed(NamedTuple):
    """The head of a request without the fields that frame its body.

    Attributes:
        head: The remaining bytes.
        fields: The names and values that were cut out.
        size: The size of the body in bytes; None if only its end determines it.
    """

    head: bytes
    fields: list[tuple[str, str]]
    size: int | None

    def restore(self, request: Request) -> None:
        """Put the fields that were cut out back into the parsed request."""
        for name, value in self.fields:
            request.headers[name] = value


class Refusal(NamedTuple):
    """The reason why a request is refused, and the status of the response."""

    status: http.HTTPStatus
    text: str


def take_framing(head: bytes) -> Framed | Refusal:
    """Cut the fields that frame a body out of the head of a request, or refuse the request.

    Args:
        head: The request, to its blank line.
    """
    version = VERSION.search(head[: head.find(b"\r\n") + 2])
    if version is not None and version[1] not in (b"1.1", b"1.0"):
        # This also refuses the preface of HTTP/2 (RFC 9113 section 3.4), which begins with this line.
        return Refusal(
            http.HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "This server speaks HTTP/1.1 and HTTP/1.0."
        )
    fields = [(found[1].decode(), found[2].decode("latin-1").strip(" \t")) for found in FIELD.finditer(head)]
    if not fields:
        return Framed(head, fields, 0)
    codings = [value.lower() for name, value in fields if name.lower() == "transfer-encoding"]
    lengths = {
        each.strip(" \t")
        for name, value in fields
        if name.lower() == "content-length"
        for each in value.split(",")
    }
    size: int | None = None
    if codings:
        # RFC 9112 section 6.1: both fields at once, or chunks in HTTP/1.0, are used to smuggle requests past
        # a proxy.
        if lengths or version is None or version[1] == b"1.0":
            return Refusal(
                http.HTTPStatus.BAD_REQUEST,
                "A request has a Content-Length, or, from HTTP/1.1 on, a Transfer-Encoding.",
            )
        if codings != ["chunked"]:
            return Refusal(
                http.HTTPStatus.NOT_IMPLEMENTED, "Of transfer codings this server understands chunked only."
            )
    else:
        if len(lengths) != 1 or not all(LENGTH.fullmatch(each) for each in lengths):
            return Refusal(http.HTTPStatus.BAD_REQUEST, "The Content-Length is not one number.")
        size = int(lengths.pop())
    return Framed(FIELD.sub(b"", head), fields, size)
