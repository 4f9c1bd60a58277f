"""URIs as they may stand in a request, and as a caller may write them (RFC 3986, RFC 9112 section 3.2)."""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from collections.abc import Callable

from websockets.exceptions import InvalidProxy, InvalidURI
from websockets.http11 import Request
from websockets.uri import WebSocketURI, parse_uri

from sockrpc.errors import UsageError

__all__ = ["check_host_name", "check_path", "fault_of", "read_target", "read_uri", "shown_url"]

# RFC 3986 2.2, 2.3 and 3.3.
RESERVED = ":/?#[]@!$&'()*+,;="
UNRESERVED = re.compile("[-._~0-9A-Za-z]")
IN_PATHS = "/:@!$&'()*+,;="
PLAIN_PATH = re.compile(f"[-._~0-9A-Za-z{IN_PATHS}]*")
ESCAPE = re.compile("%([0-9A-Fa-f]{2})?")

# RFC 3986 3.2.2 and 3.2.3; the address in brackets is checked separately.
AUTHORITY = re.compile(
    r"(?:\[([0-9a-zA-Z:.%_~-]+)\]|(?:[-._~0-9a-zA-Z!$&'()*+,;=]|%[0-9A-Fa-f]{2})*)(?::([0-9]{0,5}))?"
)
LARGEST_PORT = 65_535
# http and ws have the same form, with or without TLS, which may have ended at a gateway.
ABSOLUTE = re.compile(r"(?:https?|wss?)://([^/?#]+)(.*)", re.IGNORECASE | re.DOTALL)
# The parts of a URL in messages: its scheme, all that may be a name and a password, its place, its query and
# fragment. A wrong escape puts a password into the path, or into a port.
SHOWN = re.compile(r"([A-Za-z][-+.0-9A-Za-z]*://)?([^?#]*@)?([^?#]*)(.*)", re.DOTALL)
BLANK = re.compile(r"[\x00-\x20\x7f]")


def is_authority(text: str) -> bool:
    """Return whether the text is a Host header's value: a host, possibly empty, with an optional port."""
    found = AUTHORITY.fullmatch(text)
    if found is None:
        return False
    address, port = found.groups()
    if address is not None:
        try:
            ipaddress.IPv6Address(address)
        except ValueError:
            return False
    return not port or int(port) <= LARGEST_PORT


def normal_path(path: str) -> str:
    """Return the single spelling of all equivalent paths (RFC 3986 6.2.2.1 and 6.2.2.2).

    Unneeded escapes are removed, escapes are upper-case, and characters that a path must not have are
    escaped as UTF-8.

    Raises:
        UnicodeEncodeError: The path has a surrogate.
    """
    if PLAIN_PATH.fullmatch(path):
        return path
    return urllib.parse.quote(ESCAPE.sub(normal_escape, path), safe=IN_PATHS + "%")


def normal_escape(escape: re.Match[str]) -> str:
    """Return one escape; a percent sign that begins none stands for itself."""
    digits = escape[1]
    if digits is None:
        return "%25"
    character = chr(int(digits, 16))
    return character if UNRESERVED.match(character) else f"%{digits.upper()}"


def check_path(path: object) -> str | None:
    """Return the path of an endpoint in its normal spelling.

    Raises:
        UsageError: No request could have this path.
    """
    if path is None:
        return None
    if not isinstance(path, str) or not path.startswith("/"):
        raise UsageError(f"path begins with a slash, such as '/socket'; {path!r} does not")
    if "?" in path or "#" in path:
        raise UsageError(f"path is compared without a query; {path!r} has one, or a fragment")
    try:
        return normal_path(path)
    except UnicodeEncodeError as error:
        raise UsageError(f"path is text that UTF-8 can encode; {path!r} is not: {error}") from None


def read_target(request: Request) -> str | None:
    """Bring the target of a request into the origin form, and its path into its normal spelling.

    The host of the absolute form replaces the Host (RFC 9112 3.2.2). The targets of CONNECT and of
    OPTIONS that have no path stay as they are.

    Returns:
        None if the request is valid HTTP, otherwise the fault.
    """
    headers = request.headers
    hosts = headers.get_all("Host")
    if len(hosts) > 1 or (not hosts and request.protocol == "HTTP/1.1"):
        return f"A request has one Host header; this one has {len(hosts) or 'none'}."
    if hosts and not is_authority(hosts[0]):
        return "The Host header is not a host, and perhaps a port."
    target = request.path
    if request.method == "CONNECT":
        return None if target and is_authority(target) else "The request target is not a host and a port."
    if target == "*" and request.method == "OPTIONS":
        return None
    absolute = ABSOLUTE.fullmatch(target)
    if absolute is not None:
        host, target = absolute.groups()
        if not is_authority(host) or host.startswith(":"):
            return "The host in the request target is not valid."
        if not target.startswith("/"):
            target = "/" + target
        replace(request, host)
    if not target.startswith("/") or "#" in target or BLANK.search(target):
        return "The request target is not a path, and perhaps a query."
    path, mark, query = target.partition("?")
    request.path = normal_path(path) + mark + query
    return None


def replace(request: Request, host: str) -> None:
    """Set the Host of a request that has at most one."""
    headers = request.headers
    before = list(headers.raw_items())
    headers.clear()
    for name, value in before:
        headers.set_insecure(name, host if name.lower() == "host" else value)
    if "Host" not in headers:
        headers["Host"] = host


def read_uri(uri: str) -> WebSocketURI:
    """Return the address that a client connects to; invalid characters are escaped, as browsers do.

    Raises:
        UsageError: It is not a WebSocket URI, or no request could be made from it.
    """
    if BLANK.search(uri):
        raise UsageError(
            f"{shown_url(uri)!r} has a blank or a control character in it; a blank in a URI is written %20"
        )
    try:
        return parsed_uri(uri)
    except (InvalidURI, ValueError, UsageError):
        raise UsageError(f"{shown_url(uri)!r} is not a valid URI: {fault_of(uri, parsed_uri)}") from None


def parsed_uri(uri: str) -> WebSocketURI:
    """Parse a WebSocket URI; the errors may quote any part of it.

    Raises:
        InvalidURI, ValueError, UsageError: It is not a WebSocket URI.
    """
    parts = urllib.parse.urlsplit(uri)
    # This escapes the rest; websockets would escape existing escapes again.
    parsed = parse_uri(
        parts._replace(
            netloc=ascii_authority(parts), path=escaped(parts.path), query=escaped(parts.query)
        ).geturl()
    )
    check_host_name(parsed.host)
    return parsed


def split_url(url: str) -> tuple[str, str, str, str]:
    """Return the parts of a URL for messages, each of which may be empty."""
    found = SHOWN.fullmatch(url)
    assert found is not None, "it takes any text"
    scheme, secret, place, rest = found.groups("")
    return scheme, secret, place, rest


def shown_url(url: str) -> str:
    """Return a URL for logs and messages, without possible names, passwords and tokens in its query."""
    scheme, secret, place, rest = split_url(url)
    if "@" in rest:
        # The question mark may belong to a password.
        return f"{scheme}..."
    return scheme + ("...@" if secret else "") + place + (f"{rest[0]}..." if rest else "")


def fault_of(url: str, read: Callable[[str], object]) -> str:
    """Describe the fault of a URL using only the parts that messages may show.

    Args:
        url: The URL.
        read: A function that reads the URL and whose errors may quote any part of it.
    """
    scheme, _, place, rest = split_url(url)
    if "@" not in rest:
        try:
            read(scheme + place + rest)
        except (InvalidURI, InvalidProxy) as error:
            return error.msg
        except (ValueError, UsageError) as error:
            return str(error)
    return (
        "before the @ of a URL stand a name, a colon and a password, in UTF-8; "
        "all but letters and digits are escaped in them, a slash as %2F"
    )


def escaped(text: str) -> str:
    """Return a part of a URI with its existing escapes, and with those that it lacks."""
    return urllib.parse.quote(text, safe=RESERVED + "%")


def ascii_authority(parts: urllib.parse.SplitResult) -> str:
    """Return the user, host and port of a URI, in ASCII.

    Raises:
        ValueError: They are not valid.
    """
    user, at, host = parts.netloc.rpartition("@")
    if parts.port == 0:
        raise ValueError("nobody listens on port 0")
    if parts.hostname is not None and not parts.hostname.isascii():
        port = "" if parts.port is None else f":{parts.port}"
        host = parts.hostname.encode("idna").decode() + port
    if not is_authority(host):
        raise ValueError(f"{host!r} is not a host and perhaps a port")
    return escaped(user) + at + host


def check_host_name(host: str) -> None:
    """Refuse an impossible host name, for which resolvers raise errors other than OSError.

    Raises:
        UsageError: It has an empty label, or one of more than 63 bytes.
    """
    try:
        if host.encode("idna"):
            return
        error = UnicodeError("it is empty")
    except UnicodeError as raised:
        error = raised
    raise UsageError(f"{host!r} is not the name of a host: {error}")
