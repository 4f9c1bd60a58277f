"""The pages that may open a WebSocket: those of the server's own host, and those that the application names.

Browsers send the Origin of the page; comparing it with the Host keeps pages of other sites out
(RFC 6455 section 10.2).
"""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from collections.abc import Collection
from typing import Literal

from websockets.datastructures import MultipleValuesError
from websockets.http11 import Request

from sockrpc.errors import UsageError

__all__ = ["Origins", "check_origin", "check_origins"]

Origins = Collection[str] | Literal["*"] | None

# A scheme, 253 characters of a name (RFC 1035 2.3.4) and a port; longer values must not fill a log.
LONGEST_ORIGIN = 300
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

SCHEME = re.compile("[A-Za-z][-+.0-9A-Za-z]*")
# The origin of a page never has a scheme of WebSocket.
SCHEMES_OF_PAGES = {"ws": "http", "wss": "https"}
# Browsers omit the default ports.
DEFAULT_PORTS = {"http": 80, "https": 443}


def check_origins(origins: Origins) -> Origins:
    """Return the origins unchanged if each could be that of a page.

    Raises:
        UsageError: An entry can never be an origin; the message shows how to write it.
    """
    if origins is None or origins == "*":
        return origins
    if isinstance(origins, str):
        raise UsageError(f"origins is a collection, such as [{origins!r}], or '*'; not text")
    if not isinstance(origins, Collection):
        raise UsageError(f"origins is a collection of origins, or '*'; not {origins!r}")
    for each in origins:
        if not isinstance(each, str):
            raise UsageError(f"an origin is text, such as 'https://app.example'; not {each!r}")
        if each == "*":
            raise UsageError("'*' among others lets nobody in; to let all in, write origins='*'")
        if "*" in each:
            raise UsageError(
                f"an origin has no wildcard: {each!r} lets nobody in; name each, or decide in process_request"
            )
        right = as_sent(each)
        if right is None:
            raise UsageError(f"{each!r} is no origin; one looks like 'https://app.example', with its scheme")
        if right != each:
            raise UsageError(f"no browser sends {each!r} as its origin; write {right!r}")
    return origins


def as_sent(origin: str) -> str | None:
    """Return an origin as a browser would send it (RFC 6454 section 6.2); None if the text has none."""
    origin = origin.strip()
    if origin.lower() == "null":
        return "null"
    scheme, separator, _ = origin.partition("://")
    if not separator or not SCHEME.fullmatch(scheme):
        return None
    try:
        parts = urllib.parse.urlsplit(origin)
        host, port = parts.hostname, parts.port
        if host is not None and ":" in host:
            host = f"[{ipaddress.IPv6Address(host).compressed}]"
        elif host is not None and not host.isascii():
            host = host.encode("idna").decode()
    except ValueError:
        return None
    scheme = SCHEMES_OF_PAGES.get(parts.scheme, parts.scheme)
    if host is None and scheme in DEFAULT_PORTS:
        return None
    shown = "" if port is None or port == DEFAULT_PORTS.get(scheme) else f":{port}"
    return f"{scheme}://{host or ''}{shown}"


def check_origin(request: Request, origins: Origins) -> str | None:
    """Return None if the request is allowed, otherwise the reason and how to allow it.

    The port is ignored, and all names of the loopback host are equal.
    """
    if origins == "*":
        return None
    try:
        origin = request.headers.get("Origin")
        host = request.headers.get("Host")
    except MultipleValuesError:
        return "The request has more than one Origin or Host."
    if origin is None or origin in (origins or ()):
        return None
    if host is not None:
        theirs, ours = host_name(origin), host_name("//" + host)
        if theirs is not None and (theirs == ours or {theirs, ours} <= LOOPBACK):
            return None
    if len(origin) > LONGEST_ORIGIN or (host is not None and len(host) > LONGEST_ORIGIN):
        return "An Origin or Host as long as that is not allowed."
    hint = f"; allow it with origins=[{origin!r}]" if as_sent(origin) == origin else ""
    return f"Origin {origin!r} is not allowed on host {host!r}{hint}."


def host_name(url: str) -> str | None:
    """The host of a URL, lower-case, without its port."""
    try:
        return urllib.parse.urlsplit(url).hostname
    except ValueError:
        return None
