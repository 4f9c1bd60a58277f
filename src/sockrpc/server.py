"""The server: listen, accept, stop."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket as socket_module
import ssl as ssl_module
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Self, Unpack

from sockrpc._frames import PROTOCOLS
from sockrpc._settings import Settings
from sockrpc.app import App
from sockrpc.errors import UsageError
from sockrpc.limits import Limits, ServerLimits, make_limits
from sockrpc.listen.acceptor import descriptors_for_connections
from sockrpc.listen.admission import Admission, AdmissionPolicy, ProcessRequest
from sockrpc.listen.pending_openings import PendingOpenings
from sockrpc.listen.refusal_log import RefusalLog
from sockrpc.listen.server_hooks import (
    ServerHook,
    in_turns,
    leave_behind,
    one_turn,
    run_start_hooks,
    run_stop_hooks,
)
from sockrpc.listen.server_sockets import Address, Queue, ServerSockets, tls_options
from sockrpc.listen.unix import check_uds
from sockrpc.observe.inspector import Inspector
from sockrpc.observe.statistics import Statistics, count
from sockrpc.observe.watchdog import Watchdog
from sockrpc.peer.belonging import belongs, call_there, check_here
from sockrpc.peer.ending_log import EndingLog
from sockrpc.peer.handler import is_coroutine_function
from sockrpc.peer.handler_threads import HandlerThreads
from sockrpc.peer.hooks import Hooks
from sockrpc.peer.in_flight import find_running
from sockrpc.peer.names import NameTable
from sockrpc.peer.peer import Peer
from sockrpc.peer.rate_limited_log import RateLimitedLog
from sockrpc.peer.service import Service
from sockrpc.peer.signatures import check_function
from sockrpc.remote import Remote
from sockrpc.sockets import Socket, SocketHandler
from sockrpc.websocket.deflate import CompressionName, check_name
from sockrpc.websocket.loop import LoopContext, context_of_running_loop
from sockrpc.websocket.origins import Origins, check_origins
from sockrpc.websocket.protocols import check_protocols
from sockrpc.websocket.uris import check_path

__all__ = ["Server", "serve"]

LOG = logging.getLogger("sockrpc.server")

LARGEST_PORT = 65_535


class Server:
    """A running server; made by `serve`.

    `close`, `hurry`, `statistics` and the properties may be used in any thread; coroutines only in the
    server's event loop.
    """

    def __init__(
        self, service: Service, context: LoopContext, limits: Limits, on_stop: Sequence[ServerHook] = ()
    ) -> None:
        self._service = service
        self._context = context
        self._limits = limits
        self._on_stop = on_stop
        self._openings = PendingOpenings()
        self._server_sockets: ServerSockets | None = None
        self._watch: Watchdog | None = None
        self._inspector: Inspector | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._stop_begun = asyncio.Event()
        belongs(context.loop)
        context.acquire()

    @property
    def sockets(self) -> tuple[Any, ...]:
        """The sockets that the server listens on; empty once it stops."""
        return () if self._server_sockets is None else self._server_sockets.sockets

    @property
    def connections(self) -> frozenset[Socket]:
        """The open connections."""
        return frozenset(connection.socket for connection in list(self._service.connections))

    def statistics(self) -> Statistics:
        """Return counters, and counts of the current work.

        In a thread other than the server's, some values may be slightly newer than others.
        """
        return count(self._service)

    def close(self) -> None:
        """Begin to stop; `wait_closed` waits for the end.

        The listeners are closed, no new call starts, and each connection is closed with 1001 once its last
        call is answered; clients that have connected already are admitted and then closed the same way. Calls
        not answered within `stop_grace` are aborted, cancelled again `abort_grace` later and then
        left behind. In another thread this asks the server's event loop to do so, and returns at once.

        Raises:
            UsageError: This process was forked from the one that serves.
        """
        call_there(self._context.loop, self._close)

    def _close(self, queue: Queue | None = None) -> None:
        """Begin to stop, with a given fate of the socket's `queue`, which a worker among several knows."""
        if self._stopping is None:
            self._service.begin_stop()
            last = None if self._server_sockets is None else self._server_sockets.stop(queue)
            create_task = self._service.context.create_task
            self._service.keep(create_task(self._openings.wait(last, self._limits.close_timeout)))
            working = iter(list(self._service.working))
            one_turn(working, Peer.drain)
            self._stopping = create_task(self._stop(working))
            self._stop_begun.set()

    def hurry(self) -> None:
        """Stop without any more grace. In another thread it asks the server's event loop, as `close` does.

        Raises:
            UsageError: This process was forked from the one that serves.
        """
        call_there(self._context.loop, self._hurry_up)

    def _hurry_up(self) -> None:
        self._hurry.set()
        self._close()

    async def wait_stopping(self) -> None:
        """Wait until the server begins to stop.

        Raises:
            UsageError: This is not the server's event loop.
        """
        check_here(self._context.loop, "this server")
        await self._stop_begun.wait()

    async def wait_closed(self) -> None:
        """Wait until the server has stopped. Cancelling this does not end the stopping.

        Raises:
            UsageError: This is not the server's event loop.
        """
        check_here(self._context.loop, "this server")
        await self._stop_begun.wait()
        assert self._stopping is not None
        await asyncio.shield(self._stopping)

    async def serve_forever(self) -> None:
        """Wait until the server has stopped.

        Cancelling it stops nothing by itself; leaving the `async with serve(...)` block does.

        Raises:
            UsageError: This is not the server's event loop.
        """
        await self.wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        check_here(self._context.loop, "this server")
        self.close()
        await self.wait_closed()

    async def _stop(self, to_drain: Iterator[Peer]) -> None:
        service = self._service
        await in_turns(to_drain, Peer.drain)
        if not await self._idle_within(self._limits.stop_grace):
            await in_turns(service.tasks, asyncio.Task.cancel)
            await in_turns(service.working, Peer.end_grace)
            if not await self._idle_within(self._limits.abort_grace):
                await in_turns(service.tasks, leave_behind)
                for connection in list(service.working):
                    for _ in connection.end_abort_grace():
                        await asyncio.sleep(0)
                # The second cancel and the closed transports need a few iterations.
                for _ in range(3):
                    await asyncio.sleep(0)
        service.threads.close()
        await self._run_on_stop()
        if self._watch is not None:
            self._watch.stop()
        if self._inspector is not None:
            self._inspector.close()
        self._context.release()

    async def _run_on_stop(self) -> None:
        await run_stop_hooks(self._on_stop, self._limits.abort_grace, self._hurry)

    async def _idle_within(self, seconds: float) -> bool:
        idle = self._service.wait_idle()
        hurry = asyncio.ensure_future(self._hurry.wait())
        try:
            waiters: list[asyncio.Future[Any]] = [idle, hurry]
            await asyncio.wait(waiters, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            hurry.cancel()
        return idle.done()


class serve:
    """Start a server in the running event loop.

        async with sockrpc.serve(app, "127.0.0.1", 3000) as server:
            await server.serve_forever()

    `server = await serve(...)` works as well; then `server.close()` and `server.wait_closed()` are
    yours. Leaving the block stops the server gracefully.

    Args:
        app: An `App`, or a coroutine function of one `Socket`.
        host: The address to listen on; None for all.
        port: The TCP port; 0 for any free one.
        path: The path of the endpoint, beginning with a slash; a query is ignored, and equivalent
            spellings match. None serves every path.
        uds: The path of a unix socket to listen on instead of host and port. On Linux it may be an abstract
            name, which begins with a NUL.
        sock: A bound socket, or several, to listen on instead. They are closed at the stop; another process
            that holds them too can go on serving.
        ssl: A server context, for wss, or a function that makes one.
        origins: Origins of pages to allow besides the server's own host, such as ["https://app.example"];
            "*" allows all.
        process_request: Called with the socket and each HTTP request before anything else; returns
            None to go on, or the `websockets.http11.Response` to send instead.
        protocols: The subprotocols to speak; the client's order decides among them.
        debug: Send callers the texts of exceptions that handlers did not mean for them (v1).
        compression: "deflate" agrees to permessage-deflate (RFC 7692) with clients that offer it.
        backlog: The most connections that the system may queue before they are accepted.
        reuse_port: Let several processes listen on the same port (SO_REUSEPORT).
        inspect_path: The path of a unix socket, which only its owner may use, over which `sockrpc top PATH`
            shows the calls in flight; `{pid}` in it is the number of the process. None: off.
        limits: See `sockrpc.limits.ServerLimits`.

    Raises:
        OSError: The address cannot be listened on.
        UsageError: The arguments do not fit together.
    """

    def __init__(
        self,
        app: App | SocketHandler,
        host: str | None = None,
        port: int | None = None,
        *,
        path: str | None = None,
        uds: str | None = None,
        sock: socket_module.socket | Sequence[socket_module.socket] | None = None,
        ssl: ssl_module.SSLContext | Callable[[], ssl_module.SSLContext] | None = None,
        origins: Origins = None,
        process_request: ProcessRequest | None = None,
        protocols: Sequence[str] = PROTOCOLS,
        debug: bool = False,
        compression: CompressionName | None = None,
        backlog: int = 1024,
        reuse_port: bool | None = None,
        inspect_path: str | None = None,
        **limits: Unpack[ServerLimits],
    ) -> None:
        if not isinstance(app, App):
            if not is_coroutine_function(app):
                raise UsageError(f"serve takes an App or a coroutine function of one socket, not {app!r}")
            check_function(app, "the coroutine function")
        if process_request is not None:
            check_function(process_request, "process_request", 2)
        uds = check_uds(uds)
        if (uds is not None) + (sock is not None) + (port is not None) != 1:
            raise UsageError("serve takes one of: host and port, uds, sock")
        sockets = (sock,) if isinstance(sock, socket_module.socket) else tuple(sock or ())
        if sock is not None and not sockets:
            raise UsageError("sock has no socket in it")
        for each in sockets:
            if each.type != socket_module.SOCK_STREAM:
                raise UsageError(f"sock takes stream sockets, not {each!r}")
        if port is not None and not 0 <= port <= LARGEST_PORT:
            raise UsageError(f"a port is 0 to {LARGEST_PORT}, not {port}")
        self._app = app
        self._limits = make_limits(limits, "server")
        context = ssl() if callable(ssl) else ssl
        tls = tls_options(context, self._limits.handshake_timeout)
        max_connections = self._limits.max_connections or descriptors_for_connections()
        self._address = Address(host, port, uds, sockets, backlog, reuse_port, tls, max_connections)
        self._policy = AdmissionPolicy(
            path=check_path(path),
            origins=check_origins(origins),
            process_request=process_request,
            compression=check_name(compression),
            protocols=check_protocols(protocols),
            max_handshake_bytes=self._limits.max_handshake_bytes,
            max_connections=max_connections,
            refusals=RefusalLog(),
            refused=RateLimitedLog("reasons to refuse requests"),
        )
        self._debug = debug
        if inspect_path is not None and "\0" in inspect_path:
            raise UsageError("inspect_path is the path of a file: only that keeps others than the owner out")
        self._inspect_path = inspect_path
        self._server: Server | None = None
        self._is_entered = False
        self._has_sockets = False

    async def _prepare(self) -> tuple[Server, Callable[..., Peer]]:
        """Run the app's start hooks, then make the server, which does not listen yet."""
        if isinstance(self._app, App):
            await run_start_hooks(list(self._app._on_start))
        return self._make()

    def _make(self) -> tuple[Server, Callable[..., Peer]]:
        """Return the server, and the factory of its protocols."""
        loop = asyncio.get_running_loop()
        context = context_of_running_loop()
        tables: tuple[NameTable | None, NameTable | None] = None, None
        if isinstance(self._app, App):
            tables, hooks = self._app._tables(), self._app._hooks()
        else:
            hooks = Hooks(handle_socket=self._app)
        service = Service(
            Settings(self._limits),
            context,
            *tables,
            threads=HandlerThreads(loop, self._limits.max_threads),
            make_socket=functools.partial(Socket, hooks=hooks, endings=EndingLog()),
            make_remote=Remote,
            debug=self._debug,
        )
        on_stop = list(self._app._on_stop) if isinstance(self._app, App) else []
        server = Server(service, context, self._limits, on_stop)

        if self._limits.blocked_warning:
            server._watch = Watchdog(
                loop, self._limits.blocked_warning, functools.partial(find_running, service)
            )

        def accept(crowded: bool = False) -> Peer:
            if server._watch is not None:
                server._watch.start()
            return Peer("server", service, Admission(service, self._policy, server._openings, crowded))

        return server, accept

    async def _start(self) -> Server:
        if self._address.sockets:
            self._claim_sockets()
        server, accept = await self._prepare()
        server._server_sockets = ServerSockets(self._address, accept, server._service.keep, RefusalLog().log)
        try:
            if self._inspect_path is not None:
                server._inspector = Inspector(server._service, self._inspect_path)
                await server._inspector.open()
            await server._server_sockets.open()
        except BaseException:
            # The server has not served, but the start hooks have run.
            await server._run_on_stop()
            if server._inspector is not None:
                server._inspector.close()
            server._context.release()
            raise
        return server

    def _claim_sockets(self) -> None:
        """Refuse sockets that another server uses, because each server closes its sockets when it stops."""
        if self._has_sockets or any(each.fileno() < 0 for each in self._address.sockets):
            raise UsageError("sock was served or closed before: a server has sockets of its own")
        self._has_sockets = True

    def __await__(self) -> Generator[Any, None, Server]:
        return self._start().__await__()

    async def __aenter__(self) -> Server:
        if self._is_entered:
            raise UsageError(
                "this serve object is in use by another `async with`: make one for each block, or await it"
            )
        self._is_entered = True
        try:
            self._server = await self._start()
        except BaseException:
            self._is_entered = False
            raise
        return self._server

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._server is not None
        try:
            await self._server.__aexit__(*exc_info)
        finally:
            self._is_entered = False
