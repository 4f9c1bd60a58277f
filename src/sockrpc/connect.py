"""Connecting to a server: by address, unix socket or proxy, with redirects and reconnection."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import socket
import ssl as ssl_module
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, Unpack

from sockrpc._frames import PROTOCOLS, encode
from sockrpc._settings import Settings
from sockrpc.app import App
from sockrpc.calls import Metadata, Payload, checked_window
from sockrpc.client import Client
from sockrpc.dial.addresses import connect_to
from sockrpc.dial.client_opening import ClientOpening
from sockrpc.dial.proxies import (
    ProxyChoice,
    choose_proxy,
    connect_by_http,
    connect_by_socks,
    is_socks,
    read_proxy,
)
from sockrpc.dial.reconnecting import Reconnecting
from sockrpc.dial.redirects import MAX_REDIRECTS, Target
from sockrpc.dial.resuming import ResumingStream
from sockrpc.dial.tls import default_context
from sockrpc.errors import ConnectionLost, HandshakeError, UsageError
from sockrpc.limits import ClientLimits, check_seconds, make_limits
from sockrpc.listen.unix import check_uds, connected
from sockrpc.peer.ending_log import EndingLog
from sockrpc.peer.handler_threads import HandlerThreads
from sockrpc.peer.metadata import encode_metadata
from sockrpc.peer.peer import Peer
from sockrpc.peer.service import Service
from sockrpc.remote import Remote
from sockrpc.sockets import Socket
from sockrpc.websocket.client_handshake import ClientHandshake
from sockrpc.websocket.deflate import CompressionName, check_name
from sockrpc.websocket.headers import USER_AGENT, Headers, check_headers, merge_headers
from sockrpc.websocket.loop import LoopContext, context_of_running_loop
from sockrpc.websocket.protocols import check_protocols
from sockrpc.websocket.uris import check_host_name, read_uri

__all__ = ["connect"]

# The close codes that come with a Goaway (PROTOCOL.md).
FAREWELLS = (1001, 1008)

# A client's user reads items one by one, and the way is long; a server has many clients.
CLIENT_WINDOW_BYTES = 256 * 1024


class connect:
    """Connect to a server.

        async with connect("ws://127.0.0.1:3000/socket") as client: ...
        client = await connect(...)                  # then `await client.close()` is yours
        async for client in connect(...): ...        # connects again whenever the connection is lost

    In the iterating form, `OSError`, time-outs, HTTP 5xx and 429 are retried with capped, jittered
    back-off, and logged at level INFO; other refusals, certificate and protocol errors are raised, and so
    is the loss of a connection that the server closed with a code of 4400 to 4499, except 4429. The body
    catches `ConnectionLost` and continues. Calls are never replayed.

    Redirects are followed, at most 10, never from wss to ws; credentials, and headers that carry them, are
    not sent to another origin.

    Args:
        uri: "ws://" or "wss://". Characters that are not allowed in a URI, except blanks, are escaped.
        ssl: A context for wss://; by default one that verifies certificates, made once per process.
        server_hostname: The name to verify instead of the URI's host.
        uds: The path of a unix socket to connect to; the URI still gives Host and path. On Linux it may be an
            abstract name, which begins with a NUL.
        sock: A connected socket to use, which is closed with the connection.
        family: Use only addresses of this family, `socket.AF_INET` or `AF_INET6`.
        local_addr: Host and port to connect from.
        proxy: True uses the proxy that the environment names (`HTTPS_PROXY` and the like), if any; None uses
            none; or the URL of a proxy: http, https, socks4, socks4a, socks5, socks5h.
        proxy_ssl: A context for the TLS to an https proxy; by default one that verifies.
        headers: Further headers of the opening request; Host, User-Agent and Authorization replace ours.
        origin: The Origin to send; by default none is sent.
        protocols: The subprotocols to offer, in order of preference. The published Rust server refuses an
            offer of two: it wants "websocket.io-rpc-v0.1" alone.
        app: An `App` whose handlers the server may call (v1).
        metadata: Sent with the client's Hello (v1), for the server's `on_connect` to decide on: a mapping, or
            a function, plain or coroutine, that returns one for each connection.
        compression: "deflate" offers permessage-deflate (RFC 7692) to the server.
        open_timeout: Seconds for connecting and the handshake; `handshake_timeout` by default.
        limits: See `sockrpc.limits.ClientLimits`.

    Raises:
        OSError: No connection could be made.
        ConnectionLost: The connection was lost in the opening handshake; `__cause__` may say why.
        TimeoutError: The connection was not open in time.
        HandshakeError: The server, or a proxy, refused; `status` has the HTTP status.
        UsageError: The arguments do not fit together.
    """

    def __init__(
        self,
        uri: str,
        *,
        ssl: ssl_module.SSLContext | None = None,
        server_hostname: str | None = None,
        uds: str | None = None,
        sock: socket.socket | None = None,
        family: int = 0,
        local_addr: tuple[str, int] | None = None,
        proxy: ProxyChoice = True,
        proxy_ssl: ssl_module.SSLContext | None = None,
        headers: Headers = (),
        origin: str | None = None,
        protocols: Sequence[str] = PROTOCOLS,
        app: App | None = None,
        metadata: Metadata | Callable[[], Metadata | Awaitable[Metadata]] | None = None,
        compression: CompressionName | None = None,
        open_timeout: float | None = None,
        **limits: Unpack[ClientLimits],
    ) -> None:
        self._target = Target(read_uri(uri), check_headers(headers, origin))
        if ssl is not None and not self._target.uri.secure:
            raise UsageError("ssl is for wss:// URIs")
        if server_hostname is not None:
            check_host_name(server_hostname)
        if sock is not None and sock.type != socket.SOCK_STREAM:
            raise UsageError(f"sock is a socket for a stream, not {sock.type!r}")
        self._fixed = "uds" if uds is not None else "sock" if sock is not None else None
        if uds is not None and sock is not None:
            raise UsageError("uds and sock are two ways to one server")
        if self._fixed is not None and (family or local_addr is not None or isinstance(proxy, str)):
            raise UsageError(
                f"family, local_addr and proxy are for connecting by an address, not by {self._fixed}"
            )
        self._proxy = read_proxy(proxy) if isinstance(proxy, str) else bool(proxy)
        self._proxy_ssl = proxy_ssl
        self._protocols = check_protocols(protocols)
        if app is not None and not isinstance(app, App):
            raise UsageError(f"app is an App, not {app!r}")
        self._app = app
        self._metadata = metadata
        limits.setdefault("window_bytes", CLIENT_WINDOW_BYTES)
        checked = make_limits(limits, "client")
        if open_timeout is not None:
            check_seconds("open_timeout", open_timeout)
        self._open_timeout = checked.handshake_timeout if open_timeout is None else open_timeout
        # The connection itself also ends an opening that takes too long.
        self._limits = dataclasses.replace(checked, handshake_timeout=self._open_timeout)
        self._ssl = ssl
        self._server_hostname = server_hostname
        self._uds = check_uds(uds)
        self._sock = sock
        self._family = family
        self._local_addr = local_addr
        self._compression = check_name(compression)
        self._entered = False
        self._client: Client | None = None

    async def _connect(self) -> Client:
        target = self._target
        scope = asyncio.timeout(self._open_timeout)
        try:
            async with scope:
                for followed in range(MAX_REDIRECTS + 1):
                    try:
                        return await self._open(target)
                    except HandshakeError as refusal:
                        if refusal.location is None:
                            raise
                        target = target.redirected(refusal, followed=followed, fixed=self._fixed)
            raise AssertionError("the last redirect is never followed")
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise TimeoutError(f"no connection to {target.where} within {self._open_timeout:g} s") from error

    async def _open(self, target: Target) -> Client:
        metadata = await self._packed_metadata()
        handshake = ClientHandshake(
            target.uri,
            max_handshake_bytes=self._limits.max_handshake_bytes,
            subprotocols=self._protocols,
            headers=target.headers,
            compression=self._compression,
        )
        opening = ClientOpening(handshake)
        context = context_of_running_loop()
        connection = Peer("client", self._make_service(context), opening)
        connection.set_metadata(metadata)
        threads = connection.service.threads
        if threads is not None:
            # Those of handlers that still run end with these.
            connection.wait_lost().add_done_callback(lambda _: threads.close())
        context.acquire()
        try:
            await self._open_transport(connection, target)
            await opening.wait()
            if connection.is_v1:
                await self._agree(connection)
        except BaseException:
            connection.abort("not opened")
            # uvloop closes a transport that was cancelled while being made, and does not call its protocol.
            connection.connection_lost(None)
            raise
        finally:
            context.release()
            opening.close()
        # Let the caller run first, which may start to listen to the first events.
        asyncio.get_running_loop().call_soon(
            connection.deliver_early if connection.is_v1 else connection.begin
        )
        return self._make_client(connection)

    async def _packed_metadata(self) -> bytes:
        """Return the metadata of the next Hello in its form on the wire."""
        metadata = self._metadata() if callable(self._metadata) else self._metadata
        if isinstance(metadata, Awaitable):
            metadata = await metadata
        return b"" if metadata is None else encode_metadata(metadata)

    async def _agree(self, connection: Peer) -> None:
        """Exchange Hellos, and wait until the server's application has let this client in."""
        connection.keep_early_notifications()
        connection.hold_handshake(False)
        connection.begin()
        try:
            await connection.wait_greeted()
            # The server answers it when it has decided.
            await connection.ping_peer()
        except ConnectionLost as error:
            # An application that has closed with a code of its own says by that why.
            refusal = connection.refusal_of_peer() if error.code in FAREWELLS else None
            if refusal is None:
                raise
            raise refusal from None

    def _make_service(self, context: LoopContext) -> Service:
        settings = Settings(self._limits)
        if self._app is None:
            return Service(settings, context, make_remote=Remote)
        methods, events = self._app._tables()
        return Service(
            settings,
            context,
            methods,
            events,
            threads=HandlerThreads(context.loop, self._limits.max_threads),
            make_socket=functools.partial(Socket, hooks=self._app._hooks(), endings=EndingLog()),
            make_remote=Remote,
        )

    def _make_client(self, connection: Peer) -> Client:
        return Client(connection)

    async def _open_transport(self, connection: Peer, target: Target) -> None:
        uri = target.uri
        tls: dict[str, Any] = {}
        if uri.secure:
            own = self._target.is_same_origin(uri)
            tls = await self._tls(self._ssl, (self._server_hostname if own else None) or uri.host)
        if self._uds is not None:
            await self._open_socket(connection, connected(self._uds), tls)
            return
        if self._sock is not None:
            if self._sock.fileno() < 0:
                raise UsageError("the socket that was given is used up: it is good for one connection")
            await self._open_socket(connection, self._sock, tls)
            return
        proxy = choose_proxy(self._proxy, uri)
        if proxy is None:
            sock = await connect_to(uri.host, uri.port, family=self._family, local_addr=self._local_addr)
        elif is_socks(proxy):
            sock = await connect_by_socks(
                proxy, uri, local_addr=self._local_addr, timeout=self._open_timeout + 1
            )
        else:
            proxy_tls = await self._tls(self._proxy_ssl, proxy.host) if proxy.scheme == "https" else {}
            await connect_by_http(
                connection,
                proxy,
                uri,
                await connect_to(proxy.host, proxy.port, family=self._family, local_addr=self._local_addr),
                user_agent=dict(merge_headers([("User-Agent", USER_AGENT)], target.headers))["User-Agent"],
                max_bytes=self._limits.max_handshake_bytes,
                proxy_tls=proxy_tls,
                tls=tls,
            )
            return
        await self._open_socket(connection, sock, tls)

    async def _open_socket(self, connection: Peer, sock: socket.socket, tls: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        create: Any = loop.create_connection
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            create = loop.create_unix_connection
        await create(lambda: connection, sock=sock, **tls)

    async def _tls(self, context: ssl_module.SSLContext | None, name: str) -> dict[str, Any]:
        return {
            "ssl": context or await default_context(),
            "server_hostname": name,
            # The loop's own limit of a minute must not expire before ours.
            "ssl_handshake_timeout": self._open_timeout + 1,
        }

    def __await__(self) -> Generator[Any, None, Client]:
        return self._connect().__await__()

    async def __aenter__(self) -> Client:
        if self._entered:
            raise UsageError("this `connect` is entered already; make one for each block, or await it")
        self._entered = True
        try:
            self._client = await self._connect()
        except BaseException:
            self._entered = False
            raise
        return self._client

    async def __aexit__(self, *exc_info: object) -> None:
        client, self._client = self._client, None
        assert client is not None
        try:
            await client.close()
        finally:
            self._entered = False

    def __aiter__(self) -> Reconnecting:
        return Reconnecting(self._connect, self._target.where)

    def stream(
        self,
        method: str,
        payload: Payload = b"",
        *,
        metadata: Metadata | None = None,
        timeout: float | None = None,
        window_bytes: int | None = None,
    ) -> ResumingStream:
        """Call a method that streams tracked items (v1), over as many connections as it takes.

            async for item in sockrpc.connect(uri).stream("feed"): ...
            async with sockrpc.connect(uri).stream("feed") as feed: ...    # closes its connection at the end

        Whenever the connection is lost, the server takes leave, or the call ends with UNAVAILABLE, or with
        RESOURCE_EXHAUSTED and a `retry_after`, it connects again, as `async for client in connect(...)`
        does, and calls the method again with "resume-from", the cursor of the item that was taken last. The
        iteration ends when the stream does. Nothing is connected before the first step.

        Args:
            method: The name, at most 255 bytes of UTF-8. Its items have cursors (`Tracked`); one that has
                none may come again.
            payload: bytes, or str that is sent as UTF-8.
            metadata: Sent beside the payload; a "resume-from" in it is where the stream begins.
            timeout: Seconds for all of it from the first step on, connecting included.
            window_bytes: Bytes of items that may wait here, if more than those of the connection.

        Raises:
            RPCError: The handler has failed; OUT_OF_RANGE if it cannot go on from there. Or the peer speaks
                v0.1.
            DeadlineExceeded: The time is over.
            HandshakeError, ConnectionLost, ProtocolError: As from `async for client in connect(...)`, if
                another attempt would not help.
            UsageError: The arguments do not fit together, or two tasks take items at a time.
        """
        encode(method, payload)
        if metadata is not None:
            encode_metadata(metadata)
        if timeout is not None:
            check_seconds("timeout", timeout, zero=True)
        checked_window(window_bytes)
        return ResumingStream(aiter(self), method, payload, metadata, timeout, window_bytes)
