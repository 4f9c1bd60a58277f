"""Both ends of a WebSocket connection on sockrpc's own handshake and engine, without RPC."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from websockets.http11 import Response
from websockets.uri import parse_uri

from sockrpc._settings import Settings
from sockrpc.limits import Limits
from sockrpc.websocket.client_handshake import ClientHandshake
from sockrpc.websocket.loop import LoopContext, context_of_running_loop
from sockrpc.websocket.messages import MessageProtocol
from sockrpc.websocket.server_handshake import ServerHandshake, serialize_response

Receiver = Callable[[MessageProtocol, str | bytes], object]

# The judge waits, thinks and compares while the connection is idle; it is not to be pinged meanwhile.
LIMITS = Limits(ping_interval=None, handshake_timeout=30.0)


class Opening:
    """The opening handshake of one connection; either role adds how it answers."""

    def __init__(self) -> None:
        self.connection: Any = None

    def connected(self, connection: object) -> None:
        pass

    def ended(self) -> None:
        pass


class ServerSide(Opening):
    """Any path, no subprotocol, permessage-deflate with those who offer it."""

    def __init__(self) -> None:
        super().__init__()
        self.handshake = ServerHandshake(LIMITS.max_handshake_bytes, None, "deflate")

    def receive(self, data: bytes) -> None:
        outcome = self.handshake.receive(data)
        if outcome is None:
            return
        response = outcome
        if not isinstance(outcome, Response):
            response = self.handshake.answer(outcome, path=None, origins="*")
        if response.status_code != 101:
            self.connection.refuse(serialize_response(response))
            return
        self.connection.write_handshake(response.serialize())
        self.connection.open(self.handshake.rest, self.handshake.take_compression())
        self.connection.begin()


class ClientSide(Opening):
    """Offers permessage-deflate; `opened` is done, or has the reason, once the server has answered."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        self.handshake = ClientHandshake(
            parse_uri(uri),
            max_handshake_bytes=LIMITS.max_handshake_bytes,
            subprotocols=None,
            headers=(),
            compression="deflate",
        )
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connected(self, connection: object) -> None:
        self.connection.write_handshake(self.handshake.request())

    def receive(self, data: bytes) -> None:
        try:
            if not self.handshake.receive(data):
                return
        except Exception as error:
            self.opened.set_exception(error)
            self.connection.abort(str(error))
            return
        self.connection.open(self.handshake.rest, self.handshake.take_compression())
        self.opened.set_result(None)
        self.connection.begin()

    def ended(self) -> None:
        if not self.opened.done():
            self.opened.set_exception(ConnectionError("lost in the opening handshake"))


@contextlib.asynccontextmanager
async def serve(receiver: Receiver, port: int, limits: Limits = LIMITS) -> AsyncIterator[asyncio.Server]:
    """Listen on the loopback network; every message of every connection goes to `receiver`."""
    loop = asyncio.get_running_loop()
    context, settings = context_of_running_loop(), Settings(limits)

    def accept() -> MessageProtocol:
        side = ServerSide()
        side.connection = MessageProtocol("server", settings, context, receiver, side)
        return side.connection  # type: ignore[no-any-return]

    # Held: else it would go with each last connection.
    context.acquire()
    try:
        async with await loop.create_server(accept, "127.0.0.1", port) as server:
            yield server
    finally:
        context.release()


async def connect(uri: str, receiver: Receiver, context: LoopContext) -> MessageProtocol:
    """Connect; every message goes to `receiver`."""
    loop = asyncio.get_running_loop()
    side = ClientSide(uri)
    connection = MessageProtocol("client", Settings(LIMITS), context, receiver, side)
    side.connection = connection
    target = parse_uri(uri)
    await loop.create_connection(lambda: connection, target.host, target.port)
    await side.opened
    return connection


def echo(connection: MessageProtocol, message: str | bytes) -> None:
    """Text as text, binary as binary."""
    connection.send_whole(message)
