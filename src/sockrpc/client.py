"""The client: calls, notifications, listeners."""

from __future__ import annotations

import asyncio
import warnings
from typing import NamedTuple, Self

from sockrpc._frames import encode
from sockrpc.limits import check_seconds
from sockrpc.listener import Listener
from sockrpc.peer.peer import Peer

__all__ = ["Client", "Status"]

Payload = str | bytes | bytearray | memoryview


class Status(NamedTuple):
    """Calls and events that a client waits for."""

    pending: list[int]
    events: list[str]


class Client:
    """The client's end of one connection; made by `connect`.

    It belongs to the event loop, the thread and the process that it was made in; use from another one
    raises `UsageError` before anything is sent. If the last reference to a client with an open connection
    goes, the connection is closed with a `ResourceWarning`; calls in flight and listeners hold references.
    """

    def __init__(self, connection: Peer) -> None:
        self._connection = connection

    async def call(self, method: str, payload: Payload = b"", *, timeout: float | None = None) -> bytes:
        """Call a method and wait for its answer.

        Any cancellation of the waiting task, and the timeout, sends one reset at once, so the
        server's work stops too; an answer that crosses the reset is dropped. If the request was not
        written yet, because the server reads too slowly, nothing is sent at all.

        Args:
            method: The name, at most 255 bytes of UTF-8.
            payload: bytes, or str that is sent as UTF-8.
            timeout: Seconds to wait; None for ever (v0.1 has no errors, so a failed call is never answered).

        Raises:
            TimeoutError: The timeout expired, and the call was reset. The text has the method and the
                seconds.
            ConnectionLost: The connection was lost first. The method may have run.
            ConnectionClosed: We closed the connection.
            UsageError: The name is too long, the time-out is no number of seconds, or the client belongs to
                another event loop.
        """
        if timeout is not None:
            check_seconds("timeout", timeout, zero=True)
        pending = self._connection.request(*encode(method, payload))
        try:
            if timeout is None:
                return await pending.future
            async with asyncio.timeout(timeout):
                return await pending.future
        except TimeoutError as error:
            raise TimeoutError(f"no answer to {method!r} within {timeout:g} s; the call was reset") from error
        finally:
            # This does nothing if the answer or the end of the connection came first.
            self._connection.abandon(pending)

    async def notify(self, event: str, payload: Payload = b"") -> None:
        """Send a notification; waits while the server reads too slowly. Cancelling the wait sends nothing.

        Raises:
            ConnectionLost: The connection was lost.
            ConnectionClosed: We closed it.
            UsageError: The name is too long.
        """
        name, encoded = encode(event, payload)
        connection = self._connection
        connection.check_place()
        while not (connection.has_ended or connection.is_writable()):
            await connection.drained()
        if connection.has_ended:
            raise connection.reason_ended()
        connection.notify(name, encoded)

    def on(self, event: str) -> Listener:
        """Listen to an event from now on. If there are several listeners, each gets every payload.

        Raises:
            ConnectionLost: The connection was lost.
            ConnectionClosed: We closed it.
            UsageError: The name is too long.
        """
        name, _ = encode(event, b"")
        return Listener(self._connection.subscribe(name), self)

    def status(self) -> Status:
        """Return the ids of the calls in flight, and the events that have listeners."""
        return Status(self._connection.ids_in_flight, self._connection.events_listened)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection and wait until it is gone, at most `close_timeout` seconds.

        Calls in flight fail with `ConnectionClosed`; iterators end. Cancelling this does not undo the
        close.
        """
        self._connection.check_place()
        self._connection.close(code, reason)
        await self._connection.wait_lost()

    async def wait_closed(self) -> None:
        """Wait until the connection is gone, whichever side ended it."""
        self._connection.check_place()
        await self._connection.wait_lost()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def __del__(self) -> None:
        if self._connection.leave():
            warnings.warn("a client was not closed", ResourceWarning, source=self, stacklevel=2)
