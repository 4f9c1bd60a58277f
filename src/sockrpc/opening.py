"""How one connection of a server gets from accepted to open: the application's say, then the answer."""

from __future__ import annotations

import asyncio
import http
import inspect
import logging
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from websockets.http11 import Request, Response

from sockrpc._frames import SUBPROTOCOL
from sockrpc._service import Service
from sockrpc._serving import ServerConnection
from sockrpc.handshake import Origins, ServerHandshake, plain_response, serialize_response
from sockrpc.sockets import Socket

__all__ = ["FullLog", "OpeningPolicy", "ProcessRequest", "ServerOpening"]

LOG = logging.getLogger("sockrpc.server")

SECONDS_BETWEEN_LINES = 60.0

ProcessRequest = Callable[[Socket, Request], Awaitable[Response | None] | Response | None]


class FullLog:
    """Tells that connections are refused, at most once a minute: a flood of them is no flood of lines."""

    def __init__(self) -> None:
        self._told: float | None = None

    def tell(self, max_connections: int) -> None:
        """A connection was refused because there are too many."""
        now = time.monotonic()
        if self._told is None or now - self._told >= SECONDS_BETWEEN_LINES:
            self._told = now
            LOG.warning("refusing connections: max_connections (%d) is reached", max_connections)


class OpeningPolicy(NamedTuple):
    """What a server lets in."""

    path: str | None
    origins: Origins
    process_request: ProcessRequest | None
    max_handshake_bytes: int
    max_connections: int
    full: FullLog


class ServerOpening:
    """Drives the opening handshake of one connection."""

    __slots__ = ("connection", "handshake", "policy", "service", "task")

    def __init__(self, service: Service, policy: OpeningPolicy) -> None:
        self.service = service
        self.policy = policy
        self.handshake = ServerHandshake(policy.max_handshake_bytes, [SUBPROTOCOL])
        self.connection: ServerConnection | None = None
        self.task: asyncio.Task[None] | None = None

    def connected(self) -> None:
        """The transport is there."""
        if self.service.stopping:
            self.refuse(plain_response(http.HTTPStatus.SERVICE_UNAVAILABLE, "This server is stopping.\n"))
        elif self.service.attached > self.policy.max_connections:
            self.policy.full.tell(self.policy.max_connections)
            text = "This server has as many connections as it takes; try again later.\n"
            self.refuse(plain_response(http.HTTPStatus.SERVICE_UNAVAILABLE, text))

    def receive(self, data: bytes) -> None:
        """Bytes of the opening request."""
        if self.connection is None:
            return
        if self.task is not None:
            # Reading goes on, or a lost connection would not be noticed; but only so far.
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
            result = self.policy.process_request(self.connection.socket, outcome)
        except Exception as error:
            self.failed(error)
            return
        if inspect.isawaitable(result):
            self.task = asyncio.get_running_loop().create_task(self.wait(result, outcome))
            self.service.keep(self.task)
        else:
            self.decide(outcome, result)

    async def wait(self, result: Awaitable[Response | None], request: Request) -> None:
        """Wait for what the application says, as long as the handshake may take."""
        try:
            response = await result
        except Exception as error:
            self.failed(error)
            return
        if self.connection is not None:
            self.connection.hold_handshake(False)
            self.decide(request, response)

    def failed(self, error: Exception) -> None:
        """`process_request` raised: its text is for our log, not for the peer."""
        LOG.error("process_request failed", exc_info=error)
        self.refuse(plain_response(http.HTTPStatus.INTERNAL_SERVER_ERROR, "Internal server error.\n"))

    def decide(self, request: Request, response: Response | None) -> None:
        """Open the connection, or send a response that opens none."""
        connection = self.connection
        if connection is None:
            return
        head = request.method == "HEAD"
        if response is not None:
            if isinstance(response, Response):
                self.refuse(response, head=head)
            else:
                self.failed(TypeError(f"process_request returned {response!r}, not a Response or None"))
            return
        response = self.handshake.answer(request, path=self.policy.path, origins=self.policy.origins)
        if response.status_code != 101:
            if response.status_code == 403:
                LOG.warning("refused: %s", response.body.decode().strip())
            self.refuse(response, head=head)
            return
        connection.write_handshake(response.serialize())
        # `open` lets go of this object.
        self.connection = None
        connection.open(self.handshake.rest)
        connection.socket._opened(self.handshake.subprotocol)
        connection.begin()

    def refuse(self, response: Response, *, head: bool = False) -> None:
        """Send a response that opens no WebSocket."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.refuse(serialize_response(response, head=head))

    def ended(self) -> None:
        """The connection ended before it was open."""
        self.connection = None
        if self.task is not None:
            self.task.cancel()
