"""A call whose answer is a stream of items."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

from sockrpc._frames import encode_bytes
from sockrpc.codes import Code, Outcome
from sockrpc.errors import UsageError, local_error
from sockrpc.peer.items import Items
from sockrpc.peer.next_item import next_item
from sockrpc.peer.outgoing_call import OutgoingCall

__all__ = ["Stream"]

Payload = str | bytes | bytearray | memoryview
Opener = Callable[[bool], tuple[OutgoingCall, "asyncio.Task[None] | None"]]


class Stream(AsyncIterator[bytes]):
    """The items of one call, made by `stream`, and the way to send it items.

    Cancelling a step of the iteration loses nothing. A stream that is left, by the end of its block or
    because nobody refers to it any more, is reset at once unless it is over.
    """

    __slots__ = ("__weakref__", "_call", "_connection", "_has_pump", "_inbox", "_loop", "_open", "_pump")

    def __init__(self, connection: Any, opener: Opener, *, has_pump: bool) -> None:
        self._connection = connection
        self._open: Opener | None = opener
        self._has_pump = has_pump
        self._call: OutgoingCall | None = None
        self._inbox: Any = None
        self._pump: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    def _opened(self, *, sends: bool) -> OutgoingCall:
        """Return the call, which the first use of the stream opens."""
        if self._open is not None:
            opener, self._open = self._open, None
            self._call, self._pump = opener(sends)
            self._inbox = self._call.inbox
            pump = self._pump
            if pump is not None:
                self._call.future.add_done_callback(lambda _: pump.cancel())
        if self._call is None:
            raise UsageError("this stream could not be opened, or was closed before its first use")
        self._connection.check_place()
        return self._call

    # The iterator is a compiled one, which a loop steps through faster.
    def __aiter__(self) -> AsyncIterator[bytes]:  # noqa: PYI034
        self._opened(sends=False)
        return Items(self._inbox, self._loop, self)

    # A coroutine refers to this stream while it waits. An error that `__anext__` itself raised, before it has
    # returned something to await, would crash the interpreter in `anext(stream, default)`.
    async def __anext__(self) -> bytes:
        if self._inbox is None:
            self._opened(sends=False)
        return await next_item(self._inbox, self._loop)

    @property
    def cursor(self) -> bytes | None:
        """The cursor of the item that was taken last, where a tracked stream can be resumed."""
        cursor: bytes | None = None if self._inbox is None else self._inbox.cursor
        return cursor

    async def send(self, payload: Payload) -> bool:
        """Send an item; waits for credit and for a slow peer. Cancelling it sends nothing.

        Returns:
            False if the peer takes no more, because the call is over or its handler has left the items.

        Raises:
            UsageError: The item is too large for the peer, the stream was made with `items`, or its iteration
                began before anything was sent.
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
        if self._has_pump:
            raise UsageError("the items of this stream are sent by a pump; none can be added")
        outbox = self._opened(sends=True).outbox
        if outbox is None:
            raise UsageError("this stream began without items; enter it as a block to send some")
        return outbox

    async def result(self) -> bytes:
        """Drop the items that were not taken, and return the value beside them, usually empty, at the end.

        Cancelling it does not reset the call.

        Raises:
            RPCError, DeadlineExceeded, ConnectionLost, ConnectionClosed: As from `call`.
        """
        call = self._opened(sends=False)
        # Those that come go the same way, and the peer may go on sending.
        self._inbox.drain()
        future: asyncio.Future[bytes] = call.future
        return await asyncio.shield(future)

    def cancel(self) -> asyncio.Future[Outcome]:
        """Reset the call now; the returned future tells what became of its work, once that is over.

        Nobody has to await it. If the call has ended already nothing is sent, and the outcome is known.
        """
        call = self._opened(sends=False)
        self._connection.cancel(
            call, local_error(Code.CANCELLED, "the stream was cancelled", Outcome.UNKNOWN)
        )
        return call.outcome_of(self._loop)

    async def aclose(self) -> None:
        """Reset the call unless it is over. Never waits."""
        if self._call is not None:
            self._connection.check_place()
        self._leave()

    async def __aenter__(self) -> Self:
        self._opened(sends=not self._has_pump)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def _leave(self) -> None:
        self._open = None
        if self._call is not None:
            self._connection.cancel(
                self._call, local_error(Code.CANCELLED, "the stream was left", Outcome.UNKNOWN)
            )
        if self._pump is not None:
            self._pump.cancel()

    def __del__(self) -> None:
        # A loop over it was left, perhaps in another thread.
        if self._call is not None and not self._call.is_over and not self._loop.is_closed():
            self._connection.service.context.call_in_loop(self._leave)
