"""Reconnecting: the delays, and the errors that permit another attempt."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Self

from sockrpc.client import Client
from sockrpc.codes import Code
from sockrpc.errors import ConnectionClosed, ConnectionLost, HandshakeError, RPCError

__all__ = ["Reconnecting", "is_transient"]

LOG = logging.getLogger("sockrpc.client")

# Seconds of back-off between two attempts to connect.
FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0
# After a connection that lasted this long the back-off starts anew.
GOOD_CONNECTION_SECONDS = 30.0


class Reconnecting(AsyncIterator[Client]):
    """Yields one client after the other, for `async for`.

    A client whose server has taken leave (`Client.closing`) is not closed when the body comes back: what
    runs on it may end, and the next connection is made at once.

    This is not an async generator: if a cancelled task leaves one behind, asyncio ends it in a task of its
    own, which a loop that is about to close has no time to run.

    Attributes:
        failure: The error of a call because of which the next connection waits; the user's body sets none.
    """

    def __init__(self, connect: Callable[[], Awaitable[Client]], where: str) -> None:
        self.failure: RPCError | None = None
        self._connect = connect
        self._where = where
        self._delays = backoff()
        # Loop time before which no attempt is made. A cancelled wait goes on with the next step.
        self._not_before = 0.0
        self._client: Client | None = None
        self._began = 0.0
        # Clients whose servers have taken leave, and close them when their last call has ended.
        self._leaving: list[Client] = []

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Client:
        loop = asyncio.get_running_loop()
        if self._client is not None:
            await self._part(self._client)
        while True:
            if (delay := self._not_before - loop.time()) > 0.0:
                await asyncio.sleep(delay)
            try:
                self._client = await self._connect()
            except Exception as error:
                if not is_transient(error):
                    raise
                self._wait("failed", error)
            else:
                self._began = loop.time()
                return self._client

    async def _part(self, client: Client) -> None:
        """Leave the last client, and decide whether and when there is another attempt."""
        ended = client._connection.has_ended
        closing = client.closing
        self._leaving = [each for each in self._leaving if not each._connection.has_ended]
        if closing and not ended:
            self._leaving.append(client)
        else:
            await client.close()
        self._client = None
        failure, self.failure = self.failure, None
        error = failure or client._connection.reason_ended()
        lasted = asyncio.get_running_loop().time() - self._began
        if lasted >= GOOD_CONNECTION_SECONDS:
            self._delays = backoff()
        try:
            if ended and not isinstance(error, ConnectionClosed) and not is_transient(error):
                raise error
            if closing:
                if lasted >= FIRST_DELAY:
                    LOG.info("the server at %s takes leave; connecting again", self._where)
                else:
                    # Or a server that says so at once, again and again, would be asked without a pause.
                    self._wait("was left by the server", failure or error)
            elif failure is not None:
                self._wait("was given up after a call", error)
            else:
                self._wait("was lost" if ended else "was closed by the body", error)
        finally:
            # The error refers to this frame by its traceback.
            del error, failure

    def _wait(self, what: str, error: Exception) -> None:
        """Set the time of the next attempt."""
        delay = next(self._delays)
        if isinstance(error, RPCError) and error.retry_after is not None:
            delay = max(delay, error.retry_after)
        self._not_before = asyncio.get_running_loop().time() + delay
        LOG.info(
            "connection to %s %s (%s: %s); connecting again in %.1f s",
            *(self._where, what, type(error).__name__, error, delay),
        )

    async def aclose(self) -> None:
        """Close all connections that are open; the iterator can continue with another."""
        clients = self._take_clients()
        for client in clients:
            await client.close()

    def _take_clients(self) -> list[Client]:
        clients, self._leaving = self._leaving, []
        client, self._client = self._client, None
        return clients if client is None else [*clients, client]

    def __del__(self) -> None:
        # The body was left by `break` or by an exception.
        for client in self._take_clients():
            client._connection.leave()


def backoff() -> Generator[float, None, None]:
    """Yield delays in seconds: doubling, capped, each drawn from its upper half so that clients spread."""
    ceiling = FIRST_DELAY
    while True:
        yield ceiling * random.uniform(0.5, 1.0)
        ceiling = min(ceiling * 2, LONGEST_DELAY)


def is_transient(error: BaseException) -> bool:
    """True for an error that may be gone at the next attempt to connect."""
    if isinstance(error, HandshakeError):
        return error.status is not None and (error.status == 429 or error.status >= 500)
    if isinstance(error, RPCError):
        # Before OSError, which DeadlineExceeded is too.
        return error.code is Code.UNAVAILABLE or error.code is Code.RESOURCE_EXHAUSTED
    if isinstance(error, ConnectionLost):
        if 4400 <= error.code < 4500:
            # Applications refuse with these codes after the handshake; they mirror HTTP's 400 to 499.
            return error.code == 4429
        return not isinstance(error.__cause__, ssl.SSLError) or is_transient(error.__cause__)
    if isinstance(error, ssl.SSLError):
        # Retrying fixes neither a bad certificate nor a plain-text port, but a line may also break inside
        # TLS.
        return isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError)
    return isinstance(error, OSError | TimeoutError)
