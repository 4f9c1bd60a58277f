"""A call whose answer is a stream of items."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Self

from sockrpc._frames import encode_bytes
from sockrpc.codes import Code, Outcome
from sockrpc.errors import UsageError, local_error
from sockrpc.peer.items import Items
from sockrpc.peer.next_item import next_item
from sockrpc.peer.outgoing_call import OutgoingCall

__all__ = ["Stream"]

Payload = str | bytes | bytearray | memoryview


class Stream(AsyncIterator[bytes]):
    """The items of one call, made by `stream`, and the way to send it items.

    Cancelling a step of the iteration loses nothing. A stream that is left, by the end of its block or because
    nobody refers to it any more, is reset at once unless it is over.
    """

    __slots__ = ("__weakref__", "_call", "_connection", "_inbox", "_loop", "_pump")

    def __init__(self, connection: Any, call: OutgoingCall, pump: asyncio.Task[None] | None) -> None:
        self._connection = connection
        self._call = call
        self._inbox: Any = call.inbox
        self._pump = pump
        self._loop = asyncio.get_running_loop()
        if pump is not None:
            call.future.add_done_callback(lambda _: pump.cancel())

    def __aiter__(self) -> AsyncIterator[bytes]:
        return Items(self._inbox, self._loop, self)

    def __anext__(self) -> Any:
        return next_item(self._inbox, self._loop)

    @property
    def cursor(self) -> bytes | None:
        """The cursor of the item that was taken last, where a tracked stream can be resumed."""
        cursor: bytes | None = self._inbox.cursor
        return cursor

    async def send(self, payload: Payload) -> bool:
        """Send an item; waits for credit and for a slow peer. Cancelling it sends nothing.

        Returns:
            False if the peer takes no more, because the call is over or its handler has left the items.

        Raises:
            UsageError: The item is too large for the peer, or the stream was opened with `items`.
        """
        outbox = self._outbox()
        data = encode_bytes(payload)
        outbox.check(data, None)
        sent: bool = outbox.try_send(data) or await outbox.send(data, None)
        return sent

    async def end(self) -> None:
        """Tell the peer that no more items come. Never waits."""
        self._outbox().end()

    def _outbox(self) -> Any:
        if self._pump is not None:
            raise UsageError("the items of this stream are sent by a pump; none can be added")
        return self._call.outbox

    async def result(self) -> bytes:
        """Drop the items that were not taken, and wait for the end: the value beside the items, usually empty.

        Cancelling it does not reset the call.

        Raises:
            RPCError, DeadlineExceeded, ConnectionLost, ConnectionClosed: As from `call`.
        """
        # Those that come go the same way, and the peer may go on sending.
        self._inbox.drain()
        future: asyncio.Future[bytes] = self._call.future
        return await asyncio.shield(future)

    def cancel(self) -> asyncio.Future[Outcome]:
        """Reset the call now; the returned future tells what became of its work, once that is over.

        Nobody has to await it. If the call has ended already nothing is sent, and the outcome is known.
        """
        self._connection.cancel(
            self._call, local_error(Code.CANCELLED, "the stream was cancelled", Outcome.UNKNOWN)
        )
        return self._call.outcome_of(self._loop)

    async def aclose(self) -> None:
        """Reset the call unless it is over. Never waits."""
        self._leave()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._leave()

    def _leave(self) -> None:
        self._connection.cancel(
            self._call, local_error(Code.CANCELLED, "the stream was left", Outcome.UNKNOWN)
        )
        if self._pump is not None:
            self._pump.cancel()

    def __del__(self) -> None:
        # A loop over it was left, perhaps in another thread.
        if not self._call.is_over and not self._loop.is_closed():
            self._connection.service.context.call_in_loop(self._leave)
