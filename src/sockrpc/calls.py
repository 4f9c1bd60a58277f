"""Making calls at the other end of a connection: what a client and a server's socket share."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterable, Iterable, Mapping
from typing import Any

from sockrpc._frames import FLAGS, encode, encode_bytes
from sockrpc.codes import Code, Outcome
from sockrpc.errors import UsageError, local_error
from sockrpc.handle import Handle
from sockrpc.limits import check_seconds
from sockrpc.peer.deadline import CURRENT, inherited_deadline
from sockrpc.peer.metadata import encode_metadata
from sockrpc.peer.outgoing_call import OutgoingCall
from sockrpc.stream import Stream

__all__ = ["Calls", "Items", "Metadata", "Payload", "checked_window", "seconds_left"]

SENDS_ITEMS = FLAGS["sends items"]
TAKES_ITEMS = FLAGS["takes items"]
TRACKED = FLAGS["tracked"]
NESTED = FLAGS["nested"]
# No balance may be larger.
LARGEST_WINDOW = 2**31 - 1

Payload = str | bytes | bytearray | memoryview
Items = Iterable[Payload] | AsyncIterable[Payload]
Metadata = Mapping[str, str | bytes]


class Calls:
    """The methods of a client or a socket by which it calls the other end."""

    __slots__ = ()

    _connection: Any
    # The call of the other end within which these are made, or None.
    _within: Any = None

    async def call(
        self,
        method: str,
        payload: Payload = b"",
        *,
        items: Items | None = None,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> bytes:
        """Call a method and wait for its answer.

        Any cancellation of the waiting task, and the time-out, sends one reset at once, so the work at the
        other end stops too; an answer that crosses the reset is dropped. If the request was not written yet,
        because the peer reads too slowly or has as many calls as it takes, nothing is sent at all.

        Args:
            method: The name, at most 255 bytes of UTF-8.
            payload: bytes, or str that is sent as UTF-8.
            items: Payloads to send as a stream of items, an iterable or asynchronous iterable (v1).
            timeout: Seconds to wait, which the peer hears of too (v1); None for as long as the block or the
                handler that this is called in may take. In v0.1 a call that fails is never answered.
            metadata: Sent beside the payload (v1).

        Raises:
            RPCError: The call failed; its outcome says what became of the work (v1).
            DeadlineExceeded: The time is over by either clock. The text has the method and the seconds.
            ConnectionLost: The connection was lost first. The method may have run, unless the outcome says
                otherwise.
            ConnectionClosed: We closed the connection.
            UsageError: The name is too long, the time-out is no number of seconds, or this belongs to another
                event loop.
        """
        connection = self._connection
        if (
            items is None
            and timeout is None
            and metadata is None
            and CURRENT.get() is None
            and self._within is None
        ):
            pending = connection.request(*encode(method, payload))
            pump = None
        else:
            pending, pump = open_call(self, method, payload, items, timeout, metadata)
        try:
            answer: bytes = await pending.future
            return answer
        finally:
            # This does nothing if the answer or the end of the connection came first.
            connection.abandon(pending)
            if pump is not None:
                pump.cancel()

    def start(
        self,
        method: str,
        payload: Payload = b"",
        *,
        items: Items | None = None,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> Handle:
        """Call a method and go on; the handle waits for the answer, or cancels the call and has its outcome.

        Arguments and errors are those of `call`, except that what can be known at once is raised at once.
        """
        pending, pump = open_call(self, method, payload, items, timeout, metadata)
        return Handle(self._connection, pending, method, pump)

    def stream(
        self,
        method: str,
        payload: Payload = b"",
        *,
        items: Items | None = None,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        window_bytes: int | None = None,
        tracked: bool = False,
    ) -> Stream:
        """Return a stream of items, which calls a method (v1) at the first use of it.

            async for token in client.stream("generate", "hello"): ...     # leaving the loop resets at once
            async with client.stream("chat") as chat: ...                  # leaving the block resets too

        The call is opened by the entry of its block, or by the first step, `send`, `end`, `result` or
        `cancel`. Only a stream that began as a block or with `send` or `end` can send items: the peer
        reserves room for them.

        Args:
            method: The name, at most 255 bytes of UTF-8.
            payload: bytes, or str that is sent as UTF-8.
            items: Payloads to send beside the reader, an iterable or asynchronous iterable; without it `send`
                and `end` of the stream do so.
            timeout: Seconds for the whole call, as in `call`.
            metadata: Sent beside the payload.
            window_bytes: Bytes of items that may wait here, if more than those of the connection.
            tracked: Ask for a cursor with each item.

        Raises:
            UsageError: The name is too long, the payload or the metadata cannot be sent, or the window is no
                size.
        """
        flags = TAKES_ITEMS | (TRACKED if tracked else 0)
        name, encoded = encode(method, payload)
        packed = None if metadata is None else encode_metadata(metadata)
        check_items(items)
        window = checked_window(window_bytes)

        def opened(sends: bool) -> tuple[OutgoingCall, asyncio.Task[None] | None]:
            wanted = flags | SENDS_ITEMS if sends else flags
            return begin_call(self, name, encoded, wanted, items, timeout, packed, window)

        return Stream(self._connection, opened, has_pump=items is not None)


def checked_window(window_bytes: int | None) -> int:
    """Return the window of a stream, 0 for that of its connection.

    Raises:
        UsageError: It is no positive number of bytes.
    """
    size: object = window_bytes
    if window_bytes is not None and (not isinstance(size, int) or window_bytes <= 0):
        raise UsageError(f"window_bytes is a positive number of bytes, not {window_bytes!r}")
    return min(window_bytes or 0, LARGEST_WINDOW)


def check_items(items: object) -> None:
    """Raise `UsageError` for a payload in the place of several."""
    if isinstance(items, str | bytes | bytearray | memoryview):
        raise UsageError("items are an iterable of payloads, not one payload")


def open_call(
    calls: Calls,
    method: str,
    payload: Payload,
    items: Items | None,
    timeout: float | None,
    metadata: Metadata | None,
) -> tuple[OutgoingCall, asyncio.Task[None] | None]:
    """Open a call with options."""
    check_items(items)
    packed = None if metadata is None else encode_metadata(metadata)
    name, encoded = encode(method, payload)
    return begin_call(calls, name, encoded, 0, items, timeout, packed, 0)


def begin_call(
    calls: Calls,
    name: bytes,
    payload: bytes,
    flags: int,
    items: Items | None,
    timeout: float | None,
    metadata: bytes | None,
    window: int,
) -> tuple[OutgoingCall, asyncio.Task[None] | None]:
    """Open a call, and start the pump of its items if it has some."""
    seconds = seconds_left(timeout)
    if items is not None:
        flags |= SENDS_ITEMS
    within = calls._within
    if within is not None and within._is_running:
        flags |= NESTED
    connection = calls._connection
    pending: OutgoingCall = connection.open_call(name, payload, flags, metadata, seconds, window)
    if items is None:
        return pending, None
    return pending, asyncio.get_running_loop().create_task(pump_items(connection, pending, items))


def seconds_left(timeout: float | None) -> float:
    """Return the seconds that a call may take, 0.0 for no limit, and below 0 if none are left.

    Raises:
        UsageError: The time-out is no number of seconds.
    """
    if timeout is not None:
        check_seconds("timeout", timeout, zero=True)
    when = inherited_deadline()
    left = math.inf if timeout is None else timeout
    if when is not None:
        left = min(left, when - asyncio.get_running_loop().time())
    if left <= 0.0:
        return -1.0
    return 0.0 if left == math.inf else left


async def pump_items(connection: Any, call: OutgoingCall, items: Items) -> None:
    """Send the items of a call; what their source raises is raised at the caller."""
    outbox = call.outbox
    assert outbox is not None
    try:
        if isinstance(items, AsyncIterable):
            async for item in items:
                data = encode_bytes(item)
                outbox.check(data, None)
                if not outbox.try_send(data) and not await outbox.send(data, None):
                    return
        else:
            for item in items:
                data = encode_bytes(item)
                outbox.check(data, None)
                if not outbox.try_send(data) and not await outbox.send(data, None):
                    return
        outbox.end()
    except Exception as error:
        connection.cancel(call, error)
    except asyncio.CancelledError:
        if not outbox.closed:
            # No end of the call did this, and without an end of its items the peer would wait for ever.
            reason = local_error(Code.CANCELLED, "the source of the items was cancelled", Outcome.UNKNOWN)
            connection.cancel(call, reason)
        raise
    finally:
        if outbox.closed:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()
