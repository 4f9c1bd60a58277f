"""A stream that goes on over any number of connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Self

from sockrpc.calls import Metadata, Payload, seconds_left
from sockrpc.client import Client
from sockrpc.codes import Code, Outcome
from sockrpc.dial.reconnecting import Reconnecting
from sockrpc.errors import ConnectionLost, RPCError, UsageError, local_error
from sockrpc.stream import Stream

__all__ = ["ResumingStream"]

RESUME_FROM = "resume-from"


class ResumingStream(AsyncIterator[bytes]):
    """The items of a tracked stream, made by `stream` of `connect`, whichever connections they come over.

    Each item comes once and in order if the handler gives each a cursor, and goes on behind the one that it
    is asked for. Cancelling a step of the iteration loses nothing. A stream that is left, by the end of its
    block or because nobody refers to it any more, is reset, and its connection is closed.
    """

    def __init__(
        self,
        clients: Reconnecting,
        method: str,
        payload: Payload,
        metadata: Metadata | None,
        timeout: float | None,
        window_bytes: int | None,
    ) -> None:
        self._clients = clients
        self._method = method
        self._payload = payload
        self._metadata: dict[str, str | bytes] = dict(metadata or {})
        self._timeout = timeout
        self._window_bytes = window_bytes
        # Loop time of the deadline, None without one; known from the first step on.
        self._until: float | None = None
        self._has_begun = False
        self._is_stepping = False
        self._is_over = False
        self._stream: Stream | None = None

    @property
    def cursor(self) -> bytes | None:
        """The cursor of the item that was taken last; as "resume-from" it leads on in another process."""
        cursor = self._metadata.get(RESUME_FROM)
        return cursor.encode() if isinstance(cursor, str) else cursor

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._is_stepping:
            raise UsageError("the items of a stream have one consumer")
        self._is_stepping = True
        try:
            return await self._next()
        except asyncio.CancelledError:
            raise
        except BaseException:
            # The stream is over, well or not.
            await self.aclose()
            raise
        finally:
            self._is_stepping = False

    async def _next(self) -> bytes:
        if not self._has_begun:
            self._has_begun = True
            seconds = seconds_left(self._timeout)
            self._until = asyncio.get_running_loop().time() + seconds if seconds else None
        while not self._is_over:
            try:
                stream = self._stream
                if stream is None:
                    stream = await self._open()
                item: bytes = await anext(stream)
            except RPCError as error:
                if self._is_over:
                    break
                if not may_go_on(error):
                    raise
                self._clients.failure = error
            except ConnectionLost:
                # The iterator of connections knows which losses are for good.
                pass
            else:
                # An item without a cursor has an empty one.
                if stream.cursor:
                    self._metadata[RESUME_FROM] = stream.cursor
                return item
            self._stream = None
        raise StopAsyncIteration

    async def _open(self) -> Stream:
        """Open the stream, on the next connection, where the last item that was taken says."""
        client = await self._connect()
        if self._is_over:
            # It was closed meanwhile.
            raise StopAsyncIteration
        loop = asyncio.get_running_loop()
        stream = self._stream = client.stream(
            self._method,
            self._payload,
            timeout=None if self._until is None else max(self._until - loop.time(), 0.0),
            metadata=self._metadata or None,
            window_bytes=self._window_bytes,
            tracked=True,
        )
        connection = client._connection
        call = stream._opened(sends=False)

        def move(_: object) -> None:
            # Items that have come stay; those that were on their way come again over the next connection.
            connection.cancel(call, local_error(Code.UNAVAILABLE, "the server takes leave", Outcome.UNKNOWN))

        connection.wait_leaving().add_done_callback(move)
        return stream

    async def _connect(self) -> Client:
        scope = asyncio.timeout_at(self._until)
        try:
            async with scope:
                return await anext(self._clients)
        except TimeoutError:
            if not scope.expired():
                raise
            text = f"no connection for the stream of {self._method!r} before its time was over"
            raise local_error(Code.DEADLINE_EXCEEDED, text, Outcome.UNKNOWN) from None

    async def aclose(self) -> None:
        """Reset the call unless it is over, and close the connection.

        Cancelling this does not undo it.
        """
        self._is_over = True
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.aclose()
        await self._clients.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()


def may_go_on(error: RPCError) -> bool:
    """True for the error of a stream that may go on over another connection."""
    return error.code is Code.UNAVAILABLE or (
        error.code is Code.RESOURCE_EXHAUSTED and error.retry_after is not None
    )
