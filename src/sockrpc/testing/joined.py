"""Apps and clients joined in memory: the real engine on both sides, and a line that the test controls."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from typing import Any, Unpack

from sockrpc._frames import PROTOCOLS
from sockrpc.app import App
from sockrpc.calls import Metadata
from sockrpc.client import Client
from sockrpc.connect import connect as connect_by_socket
from sockrpc.dial.redirects import Target
from sockrpc.limits import ClientLimits, ServerLimits
from sockrpc.listen.admission import ProcessRequest
from sockrpc.peer.peer import Peer
from sockrpc.server import Server
from sockrpc.server import serve as serve_by_socket
from sockrpc.sockets import SocketHandler
from sockrpc.testing.line import Direction, Line
from sockrpc.websocket.deflate import CompressionName
from sockrpc.websocket.origins import Origins
from sockrpc.websocket.uris import check_path

__all__ = ["MemoryClient", "MemoryServer", "connect", "serve"]

Headers = Mapping[str, str] | Sequence[tuple[str, str]]
ConnectMetadata = Metadata | Callable[[], Metadata | Awaitable[Metadata]] | None

# The first port of the clients' pretended addresses (RFC 6335 section 6).
FIRST_PORT = 49_152

# Idle turns of the loop after which handlers that do not wait are assumed to have finished.
QUIET_TURNS = 10


class MemoryClient(Client):
    """A `sockrpc.Client` in memory, and its line.

    Attributes:
        server: The `sockrpc.Server` at the other end: `statistics()`, `connections`, `close()`.
        to_server: The direction from client to server: `hold()`, `deliver()`, `release()`, `delay()`,
            `hold_credit()`.
        to_client: The direction from server to client.
    """

    server: Server
    to_server: Direction
    to_client: Direction

    def __init__(self, connection: Peer, server: Server, line: Line) -> None:
        super().__init__(connection)
        self.server = server
        self.to_server = line.to_server
        self.to_client = line.to_client
        self._line = line

    def lose(self) -> None:
        """Lose the connection, as by a TCP reset: both ends notice at once, and bytes on their way are gone.

        Calls in flight fail with `ConnectionLost`; on the server they are aborted.
        """
        self._line.lose()

    async def settle(self) -> None:
        """Wait until everything not held is delivered, and handlers have done their work that does not wait.

        Held frames stay held. This waits for turns of the loop, and for time only if a direction is delayed.
        """
        loop = asyncio.get_running_loop()
        quiet = 0
        while quiet < QUIET_TURNS:
            quiet = quiet + 1 if self._line.is_quiet else 0
            when = self._line.next_time()
            if quiet and when is not None:
                await asyncio.sleep(max(when - loop.time(), 0.0))
                quiet = 0
            else:
                await asyncio.sleep(0)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection and wait until it is gone; held frames are released first."""
        self.to_server.release()
        self.to_client.release()
        await super().close(code, reason)


class MemoryConnect(connect_by_socket):
    """The connection of a client in memory: `sockrpc.connect` without the socket."""

    def __init__(
        self, joined: MemoryServer, remote_address: tuple[str, int] | None, uri: str, **options: Any
    ) -> None:
        super().__init__(uri, **options)
        self._joined = joined
        self._remote_address = remote_address
        self._line: Line

    async def _open_transport(self, connection: Peer, target: Target) -> None:
        self._line = self._joined._join(connection, self._remote_address)

    def _make_client(self, connection: Peer) -> MemoryClient:
        client = MemoryClient(connection, self._joined.server, self._line)
        clients = self._joined._clients
        clients[:] = [each for each in clients if not each._connection.has_ended]
        clients.append(client)
        return client

    def __await__(self) -> Generator[Any, None, MemoryClient]:
        return super().__await__()  # type: ignore[return-value]

    async def __aenter__(self) -> MemoryClient:
        return await super().__aenter__()  # type: ignore[return-value]


class MemoryServer:
    """A server in memory; made by `serve`.

    Attributes:
        server: The `sockrpc.Server`: `statistics()`, `connections`, `close()`.
    """

    def __init__(self, server: Server, accept: Callable[[], Peer], path: str, compression: Any) -> None:
        self.server = server
        self._accept = accept
        self._path = path
        self._compression = compression
        self._ports = itertools.count(FIRST_PORT)
        self._clients: list[MemoryClient] = []

    def lose(self) -> None:
        """Lose all connections, as by a TCP reset of each; the server goes on."""
        for client in self._clients:
            client.lose()

    def connect(
        self,
        *,
        protocols: Sequence[str] = PROTOCOLS,
        app: App | None = None,
        metadata: ConnectMetadata = None,
        path: str | None = None,
        headers: Headers = (),
        origin: str | None = None,
        remote_address: tuple[str, int] | None = None,
        **limits: Unpack[ClientLimits],
    ) -> MemoryConnect:
        """Make one more client: `async with server.connect() as client`, or `await server.connect()`.

        It is a `sockrpc.connect` without the socket, so `async for` and `stream` work too. Clients that are
        left open are closed with the server.

        Args:
            protocols: The subprotocols to offer, in order of preference: `sockrpc.v1` is spoken by default.
            app: As for `sockrpc.connect`: what the server may call.
            metadata: As for `sockrpc.connect`.
            path: Path and query of the opening request.
            headers: Further headers of the opening request.
            origin: The Origin to send; by default none is sent.
            remote_address: The client's address as the server sees it; by default 127.0.0.1 and a port of its
                own.
            limits: See `sockrpc.limits.ClientLimits`.

        Raises:
            HandshakeError: The server refused; `status` has the HTTP status.
            UsageError: The arguments do not fit together.
        """
        uri = "ws://localhost" + (self._path if path is None else path)
        options: dict[str, Any] = {
            "protocols": protocols,
            "app": app,
            "metadata": metadata,
            "headers": headers,
            "origin": origin,
            "compression": self._compression,
        }
        return MemoryConnect(self, remote_address, uri, **options, **limits)

    def _join(self, client: Peer, remote_address: tuple[str, int] | None) -> Line:
        return Line(self._accept(), client, remote_address or ("127.0.0.1", next(self._ports)))

    async def _stop(self) -> None:
        for client in self._clients:
            await client.close()
        self.server.close()
        await self.server.wait_closed()


class serve:
    """Serve an app in memory, without any socket.

        async with sockrpc.testing.serve(app) as server, server.connect() as one, server.connect() as two: ...

    The frames, the limits, the hooks and the opening handshake are those of `sockrpc.serve`. At the end of
    the block the clients are closed, and the server stops gracefully.

    Args:
        app: An `App`, or a coroutine function of one `Socket`.
        path: The path of the endpoint, which clients request; None serves every path.
        origins: As for `sockrpc.serve`.
        process_request: As for `sockrpc.serve`.
        protocols: The subprotocols that the server speaks.
        debug: As for `sockrpc.serve`.
        compression: "deflate" is offered by the clients and accepted by the server.
        limits: See `sockrpc.limits.ServerLimits`.

    Raises:
        UsageError: The arguments do not fit together.
    """

    def __init__(
        self,
        app: App | SocketHandler,
        *,
        path: str | None = None,
        origins: Origins = None,
        process_request: ProcessRequest | None = None,
        protocols: Sequence[str] = PROTOCOLS,
        debug: bool = False,
        compression: CompressionName | None = None,
        **limits: Unpack[ServerLimits],
    ) -> None:
        self._serve = serve_by_socket(
            app,
            None,
            0,
            path=path,
            origins=origins,
            process_request=process_request,
            protocols=protocols,
            debug=debug,
            compression=compression,
            **limits,
        )
        self._path = check_path(path) or "/"
        self._compression = compression
        self._joined: MemoryServer | None = None

    async def __aenter__(self) -> MemoryServer:
        server, accept = await self._serve._prepare()
        self._joined = MemoryServer(server, accept, self._path, self._compression)
        return self._joined

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._joined is not None
        await self._joined._stop()


class connect:
    """A client joined to an app in memory, without any socket.

        async with sockrpc.testing.connect(app) as client:
            assert await client.call("uppercase", "hello") == b"HELLO"

    It is a `sockrpc.Client` with some additions: see `MemoryClient`. For several clients of one
    server, and for limits of the client, see `serve`.

    Args:
        app: An `App`, or a coroutine function of one `Socket`.
        protocols: The subprotocols to offer, in order of preference: `sockrpc.v1` is spoken by default.
        client_app: An `App` whose handlers the server may call.
        metadata: As for `sockrpc.connect`.
        debug: As for `sockrpc.serve`.
        path: The path of the endpoint, which the client requests; None serves every path.
        headers: Further headers of the opening request.
        origin: The Origin to send; by default none is sent.
        remote_address: The client's address as the server sees it.
        origins: As for `sockrpc.serve`.
        process_request: As for `sockrpc.serve`.
        compression: "deflate" is offered by the client and accepted by the server.
        limits: The limits of the server, see `sockrpc.limits.ServerLimits`.

    Raises:
        HandshakeError: The server refused; `status` has the HTTP status.
        UsageError: The arguments do not fit together.
    """

    def __init__(
        self,
        app: App | SocketHandler,
        *,
        protocols: Sequence[str] = PROTOCOLS,
        client_app: App | None = None,
        metadata: ConnectMetadata = None,
        debug: bool = False,
        path: str | None = None,
        headers: Headers = (),
        origin: str | None = None,
        remote_address: tuple[str, int] | None = None,
        origins: Origins = None,
        process_request: ProcessRequest | None = None,
        compression: CompressionName | None = None,
        **limits: Unpack[ServerLimits],
    ) -> None:
        self._serve = serve(
            app,
            path=path,
            origins=origins,
            process_request=process_request,
            debug=debug,
            compression=compression,
            **limits,
        )
        self._options: dict[str, Any] = {
            "protocols": protocols,
            "app": client_app,
            "metadata": metadata,
            "headers": headers,
            "origin": origin,
            "remote_address": remote_address,
        }

    async def __aenter__(self) -> MemoryClient:
        server = await self._serve.__aenter__()
        try:
            return await server.connect(**self._options)
        except BaseException:
            await server._stop()
            raise

    async def __aexit__(self, *exc_info: object) -> None:
        await self._serve.__aexit__(*exc_info)
