"""Connections through a proxy: the choice of the proxy, HTTP CONNECT and SOCKS."""

from __future__ import annotations

import asyncio
import urllib.request
from typing import Any, Literal

from websockets.exceptions import InvalidProxy
from websockets.proxy import Proxy, get_proxy, parse_proxy
from websockets.uri import WebSocketURI

from sockrpc.errors import ConnectionLost, HandshakeError, UsageError
from sockrpc.websocket.exchange import BODY_TIMEOUT, Exchange
from sockrpc.websocket.headers import basic_authorization
from sockrpc.websocket.uris import check_host_name, fault_of

__all__ = ["ProxyChoice", "choose_proxy", "connect_by_http", "connect_by_socks", "is_socks", "read_proxy"]

ProxyChoice = Literal[True] | str | None

# RFC 1929 section 2 sets the limit; python-socks encodes both as ASCII.
LONGEST_SECRET = 255

# Replies of SOCKS 5 (RFC 1928 section 6) and 4 about the line behind the proxy, which may come back: general
# failure, network or host unreachable, refused, expired; request rejected or failed.
FAILED_BEHIND = frozenset({0x01, 0x03, 0x04, 0x05, 0x06, 0x5B})


def read_proxy(url: str) -> Proxy:
    """Return the proxy of a URL.

    Raises:
        UsageError: The URL is not valid.
    """
    try:
        proxy = parsed_proxy(url)
    except (InvalidProxy, ValueError, UsageError):
        raise UsageError(f"the proxy's URL is not valid: {fault_of(url, parsed_proxy)}") from None
    if is_socks(proxy):
        for secret in (proxy.username, proxy.password):
            if secret and not (secret.isascii() and len(secret) <= LONGEST_SECRET):
                raise UsageError(
                    f"the proxy's URL is not valid: name and password for SOCKS are of ASCII, at most "
                    f"{LONGEST_SECRET} characters each"
                )
    return proxy


def parsed_proxy(url: str) -> Proxy:
    """Parse the URL of a proxy; the errors may quote any part of it.

    Raises:
        InvalidProxy, ValueError, UsageError: The URL is not valid.
    """
    proxy = parse_proxy(url)
    check_host_name(proxy.host)
    return proxy


def choose_proxy(choice: Proxy | bool, uri: WebSocketURI) -> Proxy | None:
    """Return the proxy for `uri`; True looks into the environment and the system's settings."""
    if isinstance(choice, Proxy):
        return choice
    if not choice:
        return None
    found = get_proxy(uri)
    if found is None and not urllib.request.proxy_bypass(f"{uri.host}:{uri.port}"):
        # curl and others also use ALL_PROXY last.
        found = urllib.request.getproxies().get("all")
    return None if not found else read_proxy(found)


def is_socks(proxy: Proxy) -> bool:
    """True for a SOCKS proxy, False for an HTTP proxy."""
    return proxy.scheme.startswith("socks")


def name_of(proxy: Proxy) -> str:
    """Return the name of a proxy for messages, without its credentials."""
    return f"proxy {proxy.scheme}://{authority(proxy.host, proxy.port)}"


def authority(host: str, port: int) -> str:
    """Return host and port in the form of a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def connect_by_socks(
    proxy: Proxy, uri: WebSocketURI, *, local_addr: tuple[str, int] | None, timeout: float
) -> Any:
    """Return a socket that is connected to the host of a URI through a SOCKS proxy.

    Raises:
        OSError: The proxy could not be connected to, or could not connect to the host.
        ConnectionLost: The proxy closed the connection.
        HandshakeError: The proxy refused.
        UsageError: python-socks is not installed.
    """
    try:
        import python_socks
        import python_socks.async_.asyncio
    except ImportError:
        raise UsageError(
            f'{name_of(proxy)}: SOCKS needs python-socks: pip install "sockrpc[socks]"'
        ) from None
    version = (
        python_socks.ProxyType.SOCKS5 if proxy.scheme.startswith("socks5") else python_socks.ProxyType.SOCKS4
    )
    # With socks5h and socks4a the proxy resolves the name.
    resolves = proxy.scheme in ("socks5h", "socks4a")
    speaker = python_socks.async_.asyncio.Proxy(
        version, proxy.host, proxy.port, proxy.username, proxy.password, resolves
    )
    try:
        return await speaker.connect(uri.host, uri.port, timeout=timeout, local_addr=local_addr)
    except python_socks.ProxyError as error:
        # The first argument of an error is the reply of the proxy if it has an error code, which may be None.
        if not hasattr(error.args[0], "error_code"):
            raise lost(proxy) from error
        reason = f"the {name_of(proxy)} did not connect to {authority(uri.host, uri.port)}: {error}"
        if error.error_code in FAILED_BEHIND:
            raise ConnectionError(reason) from error
        raise HandshakeError(reason) from error
    except UnicodeDecodeError as error:
        # The proxy's reply contains a host name that is not valid.
        raise HandshakeError(f"the {name_of(proxy)}'s answer cannot be read: {error}") from error


def lost(proxy: Proxy) -> ConnectionLost:
    """Return the error for a proxy that closed the connection before it answered."""
    return ConnectionLost(1006, f"the {name_of(proxy)} closed the connection")


async def connect_by_http(
    connection: asyncio.BufferedProtocol,
    proxy: Proxy,
    uri: WebSocketURI,
    sock: Any,
    *,
    user_agent: str,
    max_bytes: int,
    proxy_tls: dict[str, Any],
    tls: dict[str, Any],
) -> None:
    """Connect to the host of a URI through an HTTP proxy, by CONNECT (RFC 9110 9.3.6).

    Args:
        connection: The connection to set up.
        proxy: The proxy, with its name and credentials.
        uri: The URI of the host.
        sock: A socket that is connected to the proxy.
        user_agent: The User-Agent of the request to the proxy.
        max_bytes: The largest response head of the proxy.
        proxy_tls: TLS keywords for the line to the proxy; empty for none.
        tls: TLS keywords for the line to the host; empty for none.

    Raises:
        HandshakeError: The proxy refused; `status` is the proxy's.
        ConnectionLost: The proxy closed the connection.
    """
    loop = asyncio.get_running_loop()
    where = authority(uri.host, uri.port)
    headers = [("Host", where), ("User-Agent", user_agent)]
    if proxy.username is not None:
        headers.append(("Proxy-Authorization", basic_authorization(proxy.username, proxy.password or "")))
    exchange = Exchange(max_bytes, name_of(proxy))
    request = exchange.request("CONNECT", where, headers)
    line, tunnel = await loop.create_connection(lambda: Tunnel(exchange, proxy), sock=sock, **proxy_tls)
    try:
        line.write(request)
        await tunnel.wait()
        answer = exchange.answer
        assert answer is not None
        if not 200 <= answer.status < 300:
            raise HandshakeError(
                f"the {name_of(proxy)} did not connect to {where}: {answer.reason}", answer.status
            )
        if tls:
            options = {name: value for name, value in tls.items() if name != "ssl"}
            transport = await loop.start_tls(line, connection, tls["ssl"], **options)
            assert transport is not None
        else:
            transport = line
            line.set_protocol(connection)
    except BaseException:
        line.abort()
        raise
    finally:
        tunnel.close()
    connection.connection_made(transport)


class Tunnel(asyncio.Protocol):
    """Waits for a proxy's response to CONNECT, but only briefly for the body of a refusal."""

    def __init__(self, exchange: Exchange, proxy: Proxy) -> None:
        self.exchange = exchange
        self.proxy = proxy
        # None once `wait` has ended.
        self.answered: asyncio.Future[None] | None = asyncio.get_running_loop().create_future()
        self.timer: asyncio.TimerHandle | None = None

    async def wait(self) -> None:
        """Wait for the response; raise if there is none."""
        assert self.answered is not None
        await self.answered

    def close(self) -> None:
        """Stop waiting."""
        if self.timer is not None:
            self.timer.cancel()
        # The future's error refers to the frames of the waiter, and they to this object.
        self.answered = None

    def answer(self, error: Exception | None = None) -> None:
        """Wake the waiter, with the error if there is one."""
        if self.answered is None or self.answered.done():
            return
        if error is None:
            self.answered.set_result(None)
        else:
            self.answered.set_exception(error)
            # The waiter may have been cancelled first; this keeps asyncio from logging the exception.
            self.answered.exception()

    def data_received(self, data: bytes) -> None:
        """Handle bytes of the response."""
        if self.answered is None or self.answered.done():
            return
        try:
            if self.exchange.receive(data):
                self.answer()
            elif self.exchange.answer is not None and self.timer is None:
                self.timer = asyncio.get_running_loop().call_later(BODY_TIMEOUT, self.answer)
        except HandshakeError as error:
            self.answer(error)

    def connection_lost(self, error: Exception | None) -> None:
        """Handle the end of the line to the proxy."""
        if self.answered is None or self.answered.done():
            return
        try:
            is_complete = self.exchange.receive(b"")
        except HandshakeError as broken:
            if broken.status is not None:
                self.answer(broken)
                return
            is_complete = False
        if is_complete:
            self.answer()
            return
        broken_line = lost(self.proxy)
        if error is not None:
            # Drop the traceback: its frames hold the transport, which holds this object.
            broken_line.__cause__ = error.with_traceback(None)
        self.answer(broken_line)
