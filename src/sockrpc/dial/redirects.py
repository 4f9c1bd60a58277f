"""The address that a client asks, and the redirects that lead it elsewhere."""

from __future__ import annotations

import dataclasses
import urllib.parse
from collections.abc import Sequence
from typing import NamedTuple

from websockets.uri import WebSocketURI

from sockrpc.errors import HandshakeError, UsageError
from sockrpc.websocket.headers import without_credentials
from sockrpc.websocket.uris import fault_of, read_uri, shown_url

__all__ = ["MAX_REDIRECTS", "Target", "shown_uri"]

MAX_REDIRECTS = 10

SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


class Target(NamedTuple):
    """The URI to connect to, and the caller's headers to send there."""

    uri: WebSocketURI
    headers: Sequence[tuple[str, str]]

    def is_same_origin(self, uri: WebSocketURI) -> bool:
        """True if scheme, host and port are the same."""
        return origin_of(self.uri) == origin_of(uri)

    @property
    def where(self) -> str:
        """The URI for logs and messages, without credentials and the query, which may contain some."""
        # An unescaped slash in a password puts part of it into the path.
        _, at, path = self.uri.path.rpartition("@")
        return self.origin + (f"/...@{path}" if at else path or "/")

    @property
    def origin(self) -> str:
        """The scheme, host and port."""
        host = f"[{self.uri.host}]" if ":" in self.uri.host else self.uri.host
        return f"{'wss' if self.uri.secure else 'ws'}://{host}:{self.uri.port}"

    def redirected(self, refusal: HandshakeError, *, followed: int, fixed: str | None) -> Target:
        """Return the target that a redirect points to.

        Args:
            refusal: The server's response, with a location.
            followed: The number of redirects so far.
            fixed: The option that binds the caller to this server; None if there is none.

        Raises:
            HandshakeError: The redirect is not followed.
        """
        location = refusal.location
        assert location is not None

        def stay(why: str) -> HandshakeError:
            return HandshakeError(
                f"redirected to {shown_url(location)!r}, which is not followed: {why}",
                refusal.status,
                location,
            )

        if followed == MAX_REDIRECTS:
            raise stay(f"{MAX_REDIRECTS} redirects have led there") from refusal
        try:
            uri = self.resolve(location)
        except (UsageError, ValueError):
            raise stay(fault_of(location, self.resolve)) from refusal
        if self.uri.secure and not uri.secure:
            raise stay("it leads from wss to ws") from refusal
        if self.is_same_origin(uri):
            if fixed == "sock":
                raise stay("the socket that was given is used up") from refusal
            if uri.user_info is None:
                uri = dataclasses.replace(uri, username=self.uri.username, password=self.uri.password)
            return Target(uri, self.headers)
        if fixed is not None:
            raise stay(f"it leads to another host than {fixed} does") from refusal
        return Target(uri, without_credentials(self.headers))

    def resolve(self, location: str) -> WebSocketURI:
        """Return the URI of a Location, which may be relative to this one."""
        base = f"http{self.origin.removeprefix('ws')}{self.uri.path or '/'}"
        joined = urllib.parse.urlsplit(urllib.parse.urljoin(base, location))
        scheme = SCHEMES.get(joined.scheme)
        if scheme is None:
            raise ValueError(f"{joined.scheme} is no scheme of WebSocket's")
        return read_uri(urllib.parse.urlunsplit(joined._replace(scheme=scheme, fragment="")))


def shown_uri(uri: str) -> str:
    """Return a URI for logs and messages.

    Raises:
        UsageError: It is not a WebSocket URI.
    """
    return Target(read_uri(uri), ()).where


def origin_of(uri: WebSocketURI) -> tuple[bool, str, int]:
    """Return the parts that distinguish one server from another (RFC 6454)."""
    return (uri.secure, uri.host, uri.port)
