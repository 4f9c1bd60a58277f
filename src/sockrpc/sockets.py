"""The server's end of one connection, as the application sees it."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

from websockets.http11 import Request

from sockrpc._frames import encode
from sockrpc.calls import Calls
from sockrpc.errors import ConnectionClosed, ConnectionLost, RPCError, UsageError
from sockrpc.peer.belonging import check_here
from sockrpc.peer.call import Call
from sockrpc.peer.ended_connection import EndedConnection
from sockrpc.peer.ending_log import ClosedBy, EndingLog, closed_by
from sockrpc.peer.hooks import ENDS_PROCESS, Hooks, is_cancelled, run_hooks
from sockrpc.peer.metadata import NO_METADATA, Metadata
from sockrpc.peer.notification import Notification
from sockrpc.peer.peer import Peer
from sockrpc.websocket.credentials import peer_credentials
from sockrpc.websocket.server_handshake import pack_request, unpack_request

if TYPE_CHECKING:
    from sockrpc.rooms import Room

__all__ = ["Socket", "SocketHandler", "SocketHook"]

Procedure: TypeAlias = Call | Notification

# Guards counters that threads change.
THREADS = threading.Lock()
# The values of `Socket.get_extra_info` that are kept after the end.
KEPT = ("peername", "sockname", "peercert", "peercred", "cipher")


class Socket(Calls):
    """A connection of a server.

    In the socket form it is also an asynchronous iterator over what the client sends: `Call` and
    `Notification` objects in order of arrival. The iteration ends when the connection is lost.
    Cancelling the iteration loses nothing. Several tasks may iterate over one socket: each procedure goes
    to one of them.

    Attributes:
        state: A namespace for the application.
    """

    __slots__ = (
        "__weakref__",
        "_connection",
        "_endings",
        "_hooks",
        "_known",
        "_pending_bytes",
        "_request",
        "_rooms",
        "_state",
        "_subprotocol",
        "_task",
    )

    def __init__(self, connection: Peer, hooks: Hooks, endings: EndingLog) -> None:
        self._connection: Any = connection  # a Peer, later an EndedConnection
        self._endings = endings
        self._pending_bytes = 0
        self._hooks = hooks
        # The peer's address once it was asked for, or a dict of KEPT after the end, and over TLS from the
        # start. They share one field, because every idle connection pays for each field here.
        self._known: Any = None
        self._request: Request | str | None = None
        self._subprotocol: str | None = None
        self._state: SimpleNamespace | None = None
        self._rooms: set[Room] | None = None
        self._task: asyncio.Task[object] | None = None

    def __repr__(self) -> str:
        return f"<Socket of {self.remote_address!r}, {self.in_flight} in flight>"

    @property
    def state(self) -> SimpleNamespace:
        """A namespace for the application; handlers see the attributes that `process_request` sets."""
        if self._state is None:
            self._state = SimpleNamespace()
        return self._state

    @property
    def remote_address(self) -> Any:
        """The peer's address, (host, port, ...) over TCP, a string over a unix socket."""
        if self._known is None:
            self._known = self.get_extra_info("peername")
        return self._known["peername"] if type(self._known) is dict else self._known

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Look up a fact about the transport by asyncio's name; works from `process_request` on.

        Over TLS, "peercert" is the client's certificate in the form of `ssl.SSLSocket.getpeercert`, if the
        server's context asks for one. Over a unix socket, "peercred" is the (pid, uid, gid) of the connected
        process, on Linux and macOS. These, "peername", "sockname" and "cipher" remain known after the end.

        Args:
            name: The name to look up.
            default: The value to return if it is unknown.
        """
        found = self._known.get(name) if type(self._known) is dict else None
        if found is None:
            found = self._look_up(name)
        return default if found is None else found

    @property
    def request(self) -> Request | None:
        """The opening request (path, headers); None until it is received."""
        if self._request is not None:
            self._request = unpack_request(self._request)
        return self._request

    @property
    def subprotocol(self) -> str | None:
        """The agreed subprotocol; None until the handshake is complete."""
        return self._subprotocol

    @property
    def metadata(self) -> Metadata:
        """The metadata of the client's Hello (v1), there when `on_connect` runs; empty in v0.1."""
        metadata: Metadata | None = self._connection.hello
        return NO_METADATA if metadata is None else metadata

    @property
    def in_flight(self) -> int:
        """The number of calls that were neither answered nor reset."""
        in_flight: int = self._connection.in_flight
        return in_flight

    @property
    def close_code(self) -> int | None:
        """The WebSocket close code that the connection ended with, None while it has not ended.

        It is the code of the peer's close frame (1005 if that had none) or of ours; 1006 means that the
        connection ended without a close frame.
        """
        connection = self._connection
        return connection.close_code if connection.has_ended else None

    @property
    def close_reason(self) -> str | None:
        """The reason of the close frame, the peer's or ours; None while the connection has not ended."""
        connection = self._connection
        return connection.close_reason if connection.has_ended else None

    @property
    def closed_by(self) -> ClosedBy | None:
        """The side that ended the connection; None while it has not ended.

        'client' and 'server' sent a close frame, the server also for faulty bytes of the client; 'lost' is
        everything else: an end or a break of the line, and a peer that was given up.
        """
        return closed_by(self._connection) if self._connection.has_ended else None

    async def notify(self, event: str, payload: str | bytes | bytearray | memoryview = b"") -> None:
        """Send a notification; waits while the peer reads too slowly.

        Cancelling it while it waits sends nothing.

        Raises:
            ConnectionLost: The connection has ended; ConnectionClosed, if by us.
            UsageError: The event's name is longer than 255 bytes, or the connection is not open yet
                (in `process_request`).
        """
        name, encoded = encode(event, payload)
        connection = self._connection
        while not (connection.has_ended or connection.is_writable()):
            await connection.drained()
        if connection.has_ended:
            raise connection.reason_ended()
        if not connection.service.context.is_here:
            raise UsageError(
                "a socket belongs to its server's event loop; from a thread there is notify_nowait"
            )
        if not connection.is_open:
            raise UsageError("the opening request is not answered yet; nothing can be sent before that")
        connection.notify(name, encoded)

    def notify_nowait(self, event: str, payload: str | bytes | bytearray | memoryview = b"") -> bool:
        """Send a notification without ever waiting.

        Returns False, and does nothing, if the unsent output is above `output_max_bytes` or the
        connection has ended or is not open yet.
        """
        name, encoded = encode(event, payload)
        connection = self._connection
        if not connection.is_open or connection.is_full():
            return False
        if not connection.service.context.is_here:
            return self._notify_from_thread(connection, name, encoded)
        connection.notify(name, encoded)
        return True

    def _notify_from_thread(self, connection: Peer, name: bytes, payload: bytes) -> bool:
        """Let the loop's thread send it, in the thread's order and before its handler's answer."""
        size = len(name) + len(payload)

        def send() -> None:
            with THREADS:
                self._pending_bytes -= size
            if connection.is_open:
                connection.notify(name, payload)

        with THREADS:
            # Threads can be faster than the loop, so they may queue as much again as the output may hold.
            if self._pending_bytes > connection.output_max_bytes:
                return False
            self._pending_bytes += size
        try:
            connection.service.context.loop.call_soon_threadsafe(send)
        except RuntimeError:
            # The loop was closed over the connection.
            return False
        return True

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection and wait until it is gone, at most `close_timeout` seconds without progress.

        Calls in flight are aborted. Cancelling this does not undo the close.

        Args:
            code: The WebSocket close code: 1000 to 1003, 1007 to 1014, 3000 to 4999.
            reason: At most 123 bytes of UTF-8; a longer one is cut.

        Raises:
            UsageError: The code is not allowed, or this is not the server's event loop.
        """
        check_here(self._connection.service.context.loop, "this socket")
        self._connection.close(code, reason)
        await self._connection.wait_lost()

    def __aiter__(self) -> AsyncIterator[Procedure]:
        if self._hooks.handle_socket is None:
            raise UsageError("with an App the procedures of a socket go to its handlers")
        check_here(self._connection.service.context.loop, "this socket")
        return self

    async def __anext__(self) -> Procedure:
        connection = self._connection
        while True:
            procedure: Procedure | None = connection.take()
            if procedure is not None:
                return procedure
            if connection.has_nothing_more:
                raise StopAsyncIteration
            taker = connection.wait_procedure()
            try:
                await taker
            except BaseException:
                # The wait was cancelled, or the iterator was closed.
                connection.give_up_waiting(taker)
                raise

    # For the connection and the server

    def _connected(self) -> None:
        """Note that the transport is ready, its TLS handshake included."""
        if self._connection.extra_info("ssl_object") is not None:
            # The TLS transport drops the line below it before it reports the loss. Without TLS the values can
            # be looked up at the end, which saves memory in idle connections.
            self._keep_extra()

    def _keep_extra(self) -> None:
        """Look up the values to keep after the end, while the transport still has them."""
        self._known = {name: self._look_up(name) for name in KEPT}

    def _look_up(self, name: str) -> Any:
        """Return the transport's value for a name, or our own from its socket; None if there is none."""
        if name == "peercred":
            return peer_credentials(self._connection.extra_info("socket"))
        return self._connection.extra_info(name)

    def _opened(self, subprotocol: str | None) -> None:
        """Note that the handshake is complete, and run the application's hook."""
        self._subprotocol = subprotocol
        hooks = self._hooks
        gate_closed = hooks.handle_socket is None and bool(hooks.on_connect)
        if not gate_closed:
            self._pack_request()
        self._connection.opened(gate_closed)
        if hooks.handle_socket is None and not gate_closed:
            return
        self._task = self._connection.create_task(
            self._connect() if hooks.handle_socket is None else self._handle(hooks.handle_socket)
        )

    def _pack_request(self) -> None:
        """Pack the request: most connections are never asked for it again, and its objects take 2.4 KiB."""
        if isinstance(self._request, Request):
            self._request = pack_request(self._request)

    async def _connect(self) -> None:
        try:
            await run_hooks(self._hooks.on_connect, self)
        except ENDS_PROCESS:
            raise
        except BaseException as error:
            cancelled = isinstance(error, asyncio.CancelledError) and is_cancelled()
            self._task = None
            # on_disconnect is skipped because nothing that it could undo was completed.
            self._hooks = Hooks()
            if isinstance(error, RPCError) and not error.received:
                self._connection.turn_away(error)
                return
            # The end of the connection cancels this task; any other CancelledError is a failure.
            if not (cancelled and self._connection.has_ended):
                self._log_failure("the on_connect hook for %r failed")
            self._connection.close(1011, "on_connect failed")
            if cancelled:
                raise
        else:
            self._task = None
            self._pack_request()
            self._connection.keep_variables()
            self._connection.open_gate()

    async def _handle(self, handle_socket: SocketHandler) -> None:
        try:
            await handle_socket(self)
        except ENDS_PROCESS:
            raise
        except BaseException as error:
            # The normal ends of the coroutine are an error that only reports the end of the connection, and a
            # cancel at the end of a stop.
            cancelled = isinstance(error, asyncio.CancelledError) and is_cancelled()
            if cancelled and self._connection.is_stopping:
                # The calls that are left get their ends, and then the stop closes the connection.
                raise
            expected = isinstance(error, ConnectionLost | ConnectionClosed) or cancelled
            if not (self._connection.has_ended and expected):
                self._log_failure("the coroutine of %r failed")
            self._connection.close(1011, "internal error")
            if cancelled:
                raise
        else:
            self._connection.close(1000, "")
        finally:
            # No iterator takes the received procedures any more.
            self._connection.drop_waiting()

    def _ended(self) -> None:
        """Leave the rooms and notify the application, in the iteration in which the connection ended."""
        if type(self._known) is not dict and self._connection.transport is not None:
            self._keep_extra()
        rooms, self._rooms = self._rooms, None
        if rooms is not None:
            for room in rooms:
                room._forget(self)
        self._tell_application()
        self._endings.log(self._connection)

    def _tell_application(self) -> None:
        if self._subprotocol is None:
            return
        hooks = self._hooks
        if hooks.handle_socket is not None:
            return
        if self._task is not None:
            # on_connect has not finished, so on_disconnect has nothing to undo.
            self._task.cancel()
            return
        if hooks.on_disconnect:
            self._connection.start_task(self._disconnect())

    def _forgotten(self) -> None:
        """Release the connection, of which nothing runs or waits any more."""
        self._connection = EndedConnection(self._connection)
        self._task = None

    async def _disconnect(self) -> None:
        try:
            await run_hooks(self._hooks.on_disconnect, self)
        except ENDS_PROCESS:
            raise
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and is_cancelled():
                raise
            self._log_failure("the on_disconnect hook for %r failed")

    def _log_failure(self, text: str) -> None:
        connection = self._connection
        error = sys.exception()
        connection.service.log.error(text, self.remote_address, exc_info=error, extra=connection.log_fields)


SocketHandler = Callable[[Socket], Awaitable[None]]
SocketHook = Callable[[Socket], Awaitable[None] | None]
