"""Reconnecting: the delays, and the errors that permit another attempt."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Self

from sockrpc.client import Client
from sockrpc.errors import ConnectionClosed, ConnectionLost, HandshakeError

__all__ = ["Reconnecting", "is_transient"]

LOG = logging.getLogger("sockrpc.client")

# Seconds of back-off between two attempts to connect.
FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0
# After a connection that lasted this long the back-off starts anew.
GOOD_CONNECTION_SECONDS = 30.0


class Reconnecting(AsyncIterator[Client]):
    """Yields one client after the other, for `async for`.

    This is not an async generator: if a cancelled task leaves one behind, asyncio ends it in a task of its
    own, which a loop that is about to close has no time to run.
    """

    def __init__(self, connect: Callable[[], Awaitable[Client]], where: str) -> None:
        self._connect = connect
        self._where = where
        self._delays = backoff()
        self._client: Client | None = None
        self._began = 0.0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Client:
        loop = asyncio.get_running_loop()
        if self._client is not None:
            ended = self._client._connection.has_ended
            await self._client.close()
            error = self._client._connection.reason_ended()
            self._client = None
            if loop.time() - self._began >= GOOD_CONNECTION_SECONDS:
                self._delays = backoff()
            try:
                if not isinstance(error, ConnectionClosed) and not is_transient(error):
                    raise error
                await self._pause("was lost" if ended else "was closed by the body", error)
            finally:
                # The error refers to this frame by its traceback.
                del error
        while True:
            try:
                self._client = await self._connect()
            except Exception as error:
                if not is_transient(error):
                    raise
                await self._pause("failed", error)
            else:
                self._began = loop.time()
                return self._client

    async def _pause(self, what: str, error: Exception) -> None:
        delay = next(self._delays)
        LOG.info(
            "connection to %s %s (%s: %s); connecting again in %.1f s",
            *(self._where, what, type(error).__name__, error, delay),
        )
        await asyncio.sleep(delay)

    async def aclose(self) -> None:
        """Close the connection; the iterator can continue with another."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def __del__(self) -> None:
        # The body was left by `break` or by an exception.
        if self._client is not None:
            self._client._connection.leave()


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
