"""Decides who is let in: the way of an accepted connection to an open one, or to a response that refuses it.

The application decides, after the limits; websocket/server_handshake.py checks the request itself.
"""

from __future__ import annotations

import asyncio
import http
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from websockets.datastructures import MultipleValuesError
from websockets.http11 import Request, Response

from sockrpc.listen.pending_openings import PendingOpenings
from sockrpc.listen.refusal_log import RefusalLog
from sockrpc.peer.hooks import ENDS_PROCESS, is_cancelled
from sockrpc.peer.peer import Peer
from sockrpc.peer.rate_limited_log import RateLimitedLog
from sockrpc.peer.service import Service
from sockrpc.sockets import Socket
from sockrpc.websocket.deflate import CompressionName
from sockrpc.websocket.origins import Origins
from sockrpc.websocket.server_handshake import ServerHandshake, plain_response, serialize_response

__all__ = ["Admission", "AdmissionPolicy", "ProcessRequest"]

LOG = logging.getLogger("sockrpc.server")

# Bytes of a request to read and drop so that its refusal arrives: closing over unread bytes sends a TCP
# reset, which would overtake it. This needs no option: it holds no memory, and `close_timeout` ends an
# endless sender before that. It is documented in docs/reference/limits.md.
MAX_UNREAD_BYTES = 16 * 1024 * 1024

ProcessRequest = Callable[[Socket, Request], Awaitable[Response | None] | Response | None]


class AdmissionPolicy(NamedTuple):
    """The rules by which a server admits connections."""

    path: str | None
    origins: Origins
    process_request: ProcessRequest | None
    compression: CompressionName | None
    protocols: tuple[str, ...]
    max_handshake_bytes: int
    max_connections: int
    refusals: RefusalLog
    refused: RateLimitedLog


class Admission:
    """Drives the opening handshake of one connection."""

    # Only its connection refers to this object, and only the transport to that: see PendingOpenings.
    __slots__ = (
        "__weakref__",
        "connection",
        "crowded",
        "handshake",
        "held",
        "pending",
        "policy",
        "service",
        "task",
    )

    def __init__(
        self, service: Service, policy: AdmissionPolicy, pending: PendingOpenings, crowded: bool = False
    ) -> None:
        self.service = service
        self.crowded = crowded  # file descriptors are nearly exhausted
        self.policy = policy
        self.pending = pending
        self.handshake = ServerHandshake(policy.max_handshake_bytes, policy.protocols, policy.compression)
        self.connection: Peer | None = None
        self.task: asyncio.Task[None] | None = None
        self.held = b""  # bytes received that wait for a later iteration
        pending.add(self)

    @property
    def is_decided(self) -> bool:
        """False while the application still has to decide about the connection."""
        return self.task is None or self.task.done()

    def connected(self, connection: Peer) -> None:
        """Begin the opening handshake, as the transport is connected."""
        self.connection = connection
        connection.socket._connected()
        if self.pending.closed:
            self.turn_away("This server is stopping.\n")
        elif self.service.attached > self.policy.max_connections:
            self.policy.refusals.log(f"max_connections ({self.policy.max_connections}) is reached")
            self.turn_away("This server has as many connections as it takes; try again later.\n")
        elif self.crowded:
            self.turn_away("This server has no descriptors left for connections; try again later.\n")
        elif self.service.stopping:
            # The connection came before the stop, so it is admitted, and drained at once.
            connection.drain()

    @property
    def log_fields(self) -> dict[str, object]:
        """The fields of the connection's log records."""
        return {} if self.connection is None else self.connection.log_fields

    def turn_away(self, text: str) -> None:
        """Send a 503 before the request is read."""
        connection, self.connection = self.connection, None
        self.pending.discard(self)
        if connection is not None:
            response = plain_response(http.HTTPStatus.SERVICE_UNAVAILABLE, text)
            connection.refuse(serialize_response(response), MAX_UNREAD_BYTES, early=True)

    def receive(self, data: bytes) -> None:
        """Handle bytes of the opening request."""
        if self.held:
            # The transport was executing this read when it was paused.
            self.held += data
        elif self.connection is None:
            return
        elif self.pending.has_time():
            self.take(data)
        else:
            self.held = data
            self.pending.postpone(self)
            self.connection.hold_handshake(True)

    def go_on(self) -> None:
        """Handle the bytes that waited for this iteration."""
        held, self.held = self.held, b""
        if self.connection is not None:
            self.connection.hold_handshake(False)
            self.take(held)

    def take(self, data: bytes) -> None:
        """Parse bytes of the opening request."""
        assert self.connection is not None
        if self.task is not None:
            # Reading continues so that a loss is noticed, but only up to a limit.
            self.handshake.rest += data
            if len(self.handshake.rest) > self.policy.max_handshake_bytes:
                self.connection.hold_handshake(True)
            return
        outcome = self.handshake.receive(data)
        if outcome is None:
            return
        if isinstance(outcome, Response):
            self.refuse(outcome)
            return
        self.connection.socket._request = outcome
        if self.policy.process_request is None:
            self.decide(outcome, None)
            return
        try:
            result = self.connection.call_hook(self.policy.process_request, self.connection.socket, outcome)
            waiting = result if inspect.isawaitable(result) else None
        except ENDS_PROCESS:
            raise
        except BaseException as error:
            self.failed(error)
            return
        if waiting is not None:
            self.task = self.connection.create_task(self.wait(waiting, outcome))
            if inspect.iscoroutine(waiting):
                # A task that is cancelled before its first step never awaits the coroutine.
                self.task.add_done_callback(lambda _: waiting.close())
        else:
            self.decide(outcome, result)

    async def wait(self, result: Awaitable[Response | None], request: Request) -> None:
        """Wait for the application's decision, at most as long as the handshake may take."""
        try:
            response = await result
        except ENDS_PROCESS:
            raise
        except BaseException as error:
            # The end of the connection or of a stop cancels this task; any other CancelledError is a failure.
            if isinstance(error, asyncio.CancelledError) and is_cancelled():
                raise
            self.failed(error)
            return
        if self.connection is not None:
            self.connection.keep_variables()
            self.connection.hold_handshake(False)
            self.decide(request, response)

    def failed(self, error: BaseException) -> None:
        """Handle an exception of `process_request`, whose text is for our log and not for the peer."""
        repeated = None if self.connection is None else repeated_header(error, self.connection.socket.request)
        if repeated is not None:
            text = f"The header {repeated} came more than once."
            self.log_refusal(text)
            self.refuse(plain_response(http.HTTPStatus.BAD_REQUEST, text + "\n"))
            return
        LOG.error("process_request failed", exc_info=error, extra=self.log_fields)
        self.refuse(plain_response(http.HTTPStatus.INTERNAL_SERVER_ERROR, "Internal server error.\n"))

    def log_refusal(self, text: str) -> None:
        """Log a request that is refused for its content, rate-limited because a peer can repeat it."""
        more = self.policy.refused.allow(text)
        if more is not None:
            LOG.warning("refused: %s%s", text, more, extra=self.log_fields)

    def decide(self, request: Request, response: object) -> None:
        """Open the connection, or send a response that refuses it."""
        connection = self.connection
        if connection is None:
            return
        head = request.method == "HEAD"
        if response is not None:
            try:
                if not isinstance(response, Response):
                    raise TypeError(f"process_request returned {response!r}, not a Response or None")
            except ENDS_PROCESS:
                raise
            except BaseException as error:
                # The check runs code of the object itself, which may raise anything.
                self.failed(error)
            else:
                self.refuse(response, head=head)
            return
        response = self.handshake.answer(request, path=self.policy.path, origins=self.policy.origins)
        if response.status_code != 101:
            if response.status_code == 403:
                self.log_refusal(response.body.decode().strip())
            self.refuse(response, head=head)
            return
        connection.write_handshake(response.serialize())
        # `open` drops the reference to this object.
        self.connection = None
        self.pending.discard(self)
        connection.open(self.handshake.rest, self.handshake.take_compression())
        assert self.handshake.subprotocol is not None
        connection.speak(self.handshake.subprotocol)
        if not connection.is_v1:
            # Otherwise the application waits for the client's Hello.
            connection.socket._opened(self.handshake.subprotocol)
        connection.begin()

    def refuse(self, response: Response, *, head: bool = False) -> None:
        """Send a response that refuses the WebSocket."""
        connection, self.connection = self.connection, None
        self.pending.discard(self)
        if connection is not None:
            connection.refuse(serialize_response(response, head=head), self.unread_bytes())

    def unread_bytes(self) -> int:
        """Return how many bytes of the request are still to come, as far as it says."""
        size = self.handshake.body_size
        return (
            MAX_UNREAD_BYTES
            if size is None
            else min(max(size - len(self.handshake.rest), 0), MAX_UNREAD_BYTES)
        )

    def ended(self) -> None:
        """Handle an end of the connection before it was open."""
        self.connection = None
        self.pending.discard(self)
        if self.task is not None:
            self.task.cancel()


def repeated_header(error: BaseException, request: Request | None) -> str | None:
    """Return the name of a header that the application expected once and the peer sent repeatedly."""
    if request is None or not isinstance(error, MultipleValuesError) or not error.args:
        return None
    name = str(error.args[0])
    return name if len(request.headers.get_all(name)) > 1 else None
