"""The client: connect, call, notify, listen; reconnect."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import re
import ssl as ssl_module
from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self, Unpack

from websockets.uri import WebSocketURI

from sockrpc._calling import ClientConnection, Subscription
from sockrpc._frames import SUBPROTOCOL, encode
from sockrpc._loop import context_of_running_loop
from sockrpc._output import Settings
from sockrpc.compression import CompressionName, check_name
from sockrpc.errors import ConnectionLost, HandshakeError, SockRPCError, UsageError
from sockrpc.handshake import ClientHandshake
from sockrpc.limits import ClientLimits, make_limits
from sockrpc.protocols import ClientProtocol
from sockrpc.unix_sockets import check_uds, connected
from sockrpc.uris import check_host_name, read_uri

__all__ = ["Client", "Listener", "Status", "connect"]

Payload = str | bytes | bytearray | memoryview

# RFC 9110 sections 5.6.2 and 5.5
TOKEN = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

# Back-off between two attempts to connect, in seconds.
FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0
# A connection that lasted this long was a good one: the back-off starts anew after it.
GOOD_CONNECTION_SECONDS = 30.0


class Status(NamedTuple):
    """What a client waits for."""

    pending: list[int]
    events: list[str]


class Listener(AsyncIterator[bytes]):
    """The payloads of one event, from the moment of `Client.on`.

    Iterate with `async for` or `anext`; cancelling that loses nothing. It ends when the listener or
    the client is closed, and raises `ConnectionLost` when the connection is lost, or
    `ListenerOverflow` when it fell behind, each after the payloads that it still holds.
    """

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        subscription = self._subscription
        while True:
            payload = subscription.take()
            if payload is not None:
                return payload
            if subscription.over:
                if subscription.error is not None:
                    raise subscription.error
                raise StopAsyncIteration
            # Shielded: several may wait for the same future.
            await asyncio.shield(subscription.wait(asyncio.get_running_loop()))

    async def aclose(self) -> None:
        """Unsubscribe. What it still holds is dropped; iterating it ends."""
        self._subscription.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # A loop that was left by `break` does not close its iterator.
        self._subscription.cancel()


class Client:
    """The client's end of one connection; made by `connect`."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def call(self, method: str, payload: Payload = b"", *, timeout: float | None = None) -> bytes:
        """Call a method and wait for its answer.

        Any cancellation of the waiting task, and the timeout, sends one reset at once, so the
        server's work stops too; an answer that crosses the reset is dropped. If the request was not
        written yet, because the server reads too slowly, nothing is sent at all.

        Args:
            method: The name, at most 255 bytes of UTF-8.
            payload: bytes, or str that is sent as UTF-8.
            timeout: Seconds to wait; None for ever (v0.1 has no errors: a failed call is never answered).

        Raises:
            TimeoutError: The timeout was over; the call is reset.
            ConnectionLost: The connection was lost first. The method may have run.
            ConnectionClosed: We closed the connection.
            UsageError: The name is too long.
        """
        pending = self._connection.request(*encode(method, payload))
        try:
            if timeout is None:
                return await pending.future
            async with asyncio.timeout(timeout):
                return await pending.future
        finally:
            # Does nothing where the answer or the end of the connection came first.
            self._connection.abandon(pending)

    async def notify(self, event: str, payload: Payload = b"") -> None:
        """Send a notification; waits while the server reads too slowly. Cancelling that sends nothing.

        Raises:
            ConnectionLost: The connection was lost.
            ConnectionClosed: We closed it.
            UsageError: The name is too long.
        """
        name, encoded = encode(event, payload)
        connection = self._connection
        while not (connection.has_ended or connection.is_writable()):
            await connection.drained()
        if connection.has_ended:
            raise connection.reason_ended()
        connection.notify(name, encoded)

    def on(self, event: str) -> Listener:
        """Listen to an event, from here on. Several listeners each get every payload.

        Raises:
            ConnectionLost: The connection was lost.
            ConnectionClosed: We closed it.
            UsageError: The name is too long.
        """
        name, _ = encode(event, b"")
        return Listener(self._connection.subscribe(name))

    def status(self) -> Status:
        """The ids of the calls in flight, and the events that are listened for."""
        return Status(self._connection.ids_in_flight, self._connection.events_listened)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection and wait until it is gone, at most `close_timeout` seconds.

        Calls in flight fail with `ConnectionClosed`; iterators end. Cancelling it does not take the
        close back.
        """
        self._connection.close(code, reason)
        await self._connection.wait_lost()

    async def wait_closed(self) -> None:
        """Wait until the connection is gone, whoever ended it."""
        await self._connection.wait_lost()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()


class Opening:
    """Drives the opening handshake of one client connection."""

    def __init__(self, handshake: ClientHandshake) -> None:
        self.handshake = handshake
        self.connection: ClientConnection | None = None
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connected(self, connection: ClientConnection) -> None:
        """The transport is there: send the request."""
        self.connection = connection
        connection.write_handshake(self.handshake.request())

    def receive(self, data: bytes) -> None:
        """Bytes of the answer."""
        assert self.connection is not None
        try:
            if not self.handshake.receive(data):
                return
        except HandshakeError as error:
            self.fail(error)
            self.connection.abort(str(error))
        else:
            self.connection.hold_handshake(True)
            self.connection.open(self.handshake.rest, self.handshake.compression)
            if not self.opened.done():
                self.opened.set_result(None)

    def ended(self) -> None:
        """The connection ended before it was open."""
        try:
            self.handshake.receive(b"", eof=True)
        except HandshakeError as error:
            # A refusal whose body ends with the connection is complete only now.
            if error.status is not None:
                self.fail(error)
        self.fail(ConnectionLost(1006, "connection lost in the opening handshake"))

    def fail(self, error: SockRPCError) -> None:
        """Report an error, if none was reported yet and somebody waits."""
        if not self.opened.done():
            self.opened.set_exception(error)


class connect:
    """Connect to a server.

        async with connect("ws://127.0.0.1:3000/socket") as client: ...
        client = await connect(...)                  # then `await client.close()` is yours
        async for client in connect(...): ...        # connects again whenever the connection is lost

    In the iterating form, `OSError`, time-outs, HTTP 5xx and 429 are retried with capped, jittered
    back-off; other refusals, certificate and protocol errors are raised. The body catches
    `ConnectionLost` and continues. Calls are never replayed.

    Args:
        uri: "ws://" or "wss://". What may not stand in a URI, a blank excepted, is escaped.
        ssl: A context for wss://; by default one that verifies certificates.
        server_hostname: The name to verify instead of the URI's host.
        uds: A path: connect to this unix socket; the URI still gives Host and path. On Linux also an
            abstract name, which begins with a NUL.
        headers: Further headers of the opening request.
        origin: The Origin to send; none by default.
        compression: "deflate" offers permessage-deflate (RFC 7692) to the server.
        open_timeout: Seconds for connecting and the handshake; `handshake_timeout` by default.
        limits: See `sockrpc.limits.ClientLimits`.

    Raises:
        OSError: There is no connection to be had.
        ConnectionLost: The connection was lost in the opening handshake.
        TimeoutError: Not in time.
        HandshakeError: The server refused; `status` says how.
        UsageError: The arguments do not fit together.
    """

    def __init__(
        self,
        uri: str,
        *,
        ssl: ssl_module.SSLContext | None = None,
        server_hostname: str | None = None,
        uds: str | None = None,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        origin: str | None = None,
        compression: CompressionName | None = None,
        open_timeout: float | None = None,
        **limits: Unpack[ClientLimits],
    ) -> None:
        self._uri: WebSocketURI = read_uri(uri)
        if server_hostname is not None:
            check_host_name(server_hostname)
        if ssl is not None and not self._uri.secure:
            raise UsageError("ssl is for wss:// URIs")
        self._limits = make_limits(limits, ClientLimits.__optional_keys__)
        self._ssl = ssl
        self._server_hostname = server_hostname
        self._uds = check_uds(uds)
        self._headers = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        self._origin = origin
        self._compression = check_name(compression)
        for name, value in [*self._headers, ("Origin", origin or "")]:
            if not TOKEN.fullmatch(name) or not FIELD_VALUE.fullmatch(value):
                raise UsageError(f"{name!r}: {value!r} is not an HTTP header (RFC 9110 section 5)")
        self._open_timeout = self._limits.handshake_timeout if open_timeout is None else open_timeout
        self._client: Client | None = None

    async def _connect(self) -> Client:
        handshake = ClientHandshake(
            self._uri,
            max_handshake_bytes=self._limits.max_handshake_bytes,
            subprotocols=[SUBPROTOCOL],
            origin=self._origin,
            headers=self._headers,
            compression=self._compression,
        )
        opening = Opening(handshake)
        context = context_of_running_loop()
        # The connection ends an opening that takes too long as well; here `open_timeout` says how long.
        limits = dataclasses.replace(self._limits, handshake_timeout=self._open_timeout)
        connection = ClientProtocol(Settings(limits), context, opening)
        context.acquire()
        try:
            async with asyncio.timeout(self._open_timeout):
                await self._open_transport(connection)
                await opening.opened
        except BaseException:
            connection.abort("not opened")
            # uvloop closes a transport whose making was cancelled without telling its protocol.
            connection.connection_lost(None)
            raise
        finally:
            context.release()
            opening.connection = None
            if opening.opened.done() and not opening.opened.cancelled():
                # The time-out may have come first; then nobody else looks at it.
                opening.opened.exception()
        # Read on only after the caller has had its first word: it may listen to what comes at once.
        asyncio.get_running_loop().call_soon(connection.begin)
        return Client(connection)

    async def _open_transport(self, connection: ClientProtocol) -> None:
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {}
        if self._uri.secure:
            options["ssl"] = self._ssl or ssl_module.create_default_context()
            options["server_hostname"] = self._server_hostname or self._uri.host
        if self._uds is not None:
            await loop.create_unix_connection(lambda: connection, sock=connected(self._uds), **options)
        else:
            await loop.create_connection(lambda: connection, self._uri.host, self._uri.port, **options)

    def __await__(self) -> Generator[Any, None, Client]:
        return self._connect().__await__()

    async def __aenter__(self) -> Client:
        self._client = await self._connect()
        return self._client

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._client is not None
        await self._client.close()

    async def __aiter__(self) -> AsyncIterator[Client]:
        loop = asyncio.get_running_loop()
        delays = backoff()
        while True:
            try:
                client = await self._connect()
            except Exception as error:
                if not is_transient(error):
                    raise
            else:
                began = loop.time()
                try:
                    yield client
                finally:
                    await client.close()
                if loop.time() - began >= GOOD_CONNECTION_SECONDS:
                    delays = backoff()
            await asyncio.sleep(next(delays))


def backoff() -> Generator[float, None, None]:
    """Delays in seconds: doubling, capped, each drawn from its upper half so that clients spread."""
    ceiling = FIRST_DELAY
    while True:
        yield ceiling * random.uniform(0.5, 1.0)
        ceiling = min(ceiling * 2, LONGEST_DELAY)


def is_transient(error: Exception) -> bool:
    """True for an error of connecting that may be gone at the next attempt."""
    if isinstance(error, HandshakeError):
        return error.status is not None and (error.status == 429 or error.status >= 500)
    if isinstance(error, ssl_module.SSLError):
        # A certificate does not become good by waiting, nor does a plain port speak TLS one day.
        return isinstance(error, ssl_module.SSLEOFError)
    return isinstance(error, OSError | TimeoutError | ConnectionLost)
