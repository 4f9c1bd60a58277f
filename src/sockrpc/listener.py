"""Listeners for one event of a server."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from typing import Self

from sockrpc.peer.subscription import Subscription

__all__ = ["Listener"]


def another(error: BaseException) -> BaseException:
    """Return a copy of an error that was never raised."""
    twin: BaseException = copy.copy(error)
    twin.__cause__ = error.__cause__
    return twin


class Listener(AsyncIterator[bytes]):
    """The payloads of one event, from the moment of `Client.on`.

    Iterate with `async for` or `anext`; cancelling that loses nothing. The iteration ends when the listener
    or the client is closed. It raises `ConnectionLost` if the connection is lost, and `ListenerOverflow` if
    the listener fell behind, in each case after the payloads received before.
    """

    def __init__(self, subscription: Subscription, client: object) -> None:
        self._subscription = subscription
        # A listener keeps its client alive.
        self._client = client

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        subscription = self._subscription
        while True:
            payload = subscription.take()
            if payload is not None:
                return payload
            if subscription.finished:
                if subscription.error is not None:
                    # Raise a copy: the traceback refers to this frame, which leads to the error.
                    raise another(subscription.error)
                raise StopAsyncIteration
            # Shield it, because several tasks may wait for the same future.
            await asyncio.shield(subscription.wait(asyncio.get_running_loop()))

    async def aclose(self) -> None:
        """Unsubscribe and drop the payloads that it still holds; iterating it ends."""
        self._subscription.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # A loop that is left by `break` does not close its iterator.
        self._subscription.cancel()
