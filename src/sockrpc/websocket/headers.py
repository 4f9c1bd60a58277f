"""The headers of an opening request: our own, and those that the caller of `connect` may add."""

from __future__ import annotations

import base64
import re
import sys
from collections.abc import Mapping, Sequence

from sockrpc.errors import UsageError
from sockrpc.version import __version__

__all__ = [
    "USER_AGENT",
    "Headers",
    "basic_authorization",
    "check_headers",
    "merge_headers",
    "without_credentials",
]

Headers = Mapping[str, str] | Sequence[tuple[str, str]]

# Firewalls of some clouds answer 403 to requests without this header.
USER_AGENT = f"Python/{sys.version_info.major}.{sys.version_info.minor} sockrpc/{__version__}"

# RFC 9110 sections 5.6.2 and 5.5
TOKEN = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

HANDSHAKE_ITSELF = frozenset({"upgrade", "connection", "content-length", "transfer-encoding"})
# The caller's headers replace these; with two of one name the server would have to guess.
REPLACEABLE = frozenset({"host", "user-agent", "origin", "authorization"})
# These must not reach another origin by a redirect; the old host's name is of no use there.
CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization", "host"})


def check_headers(headers: Headers, origin: str | None) -> list[tuple[str, str]]:
    """Return the caller's headers as pairs, with the Origin among them.

    Raises:
        UsageError: A header is not valid, or the caller must not set it.
    """
    pairs = (
        list(headers.items()) if isinstance(headers, Mapping) else [(name, value) for name, value in headers]
    )
    if origin is not None:
        pairs.append(("Origin", origin))
    seen: set[str] = set()
    for name, value in pairs:
        if not all(map(is_text, (name, value))):
            raise UsageError(
                f"name and value of a header are str, not {type(name).__name__} and {type(value).__name__}"
            )
        if not TOKEN.fullmatch(name):
            raise UsageError(f"{name!r} is not the name of an HTTP header (RFC 9110 section 5.1)")
        if not FIELD_VALUE.fullmatch(value):
            # The message omits the value because it may be a password.
            wrong = FIELD_VALUE.sub("", value)[0]
            raise UsageError(
                f"the value of the HTTP header {name} has {wrong!r} in it (RFC 9110 section 5.5)"
            )
        key = name.lower()
        if key in HANDSHAKE_ITSELF or key.startswith("sec-websocket-"):
            raise UsageError(f"{name} is chosen by the opening handshake itself; it cannot be given")
        if key in REPLACEABLE and key in seen:
            raise UsageError(f"{name} is given twice")
        seen.add(key)
    return [(name, value.strip(" \t")) for name, value in pairs]


def is_text(value: object) -> bool:
    """True for a str; untyped callers may pass numbers."""
    return isinstance(value, str)


def merge_headers(
    ours: Sequence[tuple[str, str]], theirs: Sequence[tuple[str, str]]
) -> list[tuple[str, str]]:
    """Return our headers, with those that the caller replaces, then the caller's other headers."""
    given = {name.lower(): value for name, value in theirs}
    merged = [(name, given.get(name.lower(), value)) for name, value in ours]
    names = {name.lower() for name, _ in ours}
    return merged + [(name, value) for name, value in theirs if name.lower() not in names]


def without_credentials(headers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the headers that may be sent to another origin."""
    return [(name, value) for name, value in headers if name.lower() not in CREDENTIALS]


def basic_authorization(username: str, password: str) -> str:
    """Return credentials in the form of a header value (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
