"""Listening to one event of a server."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from typing import Self

from sockrpc.peer.subscription import Subscription

__all__ = ["Listener"]


def another(error: BaseException) -> BaseException:
    """The same error, that nobody has raised."""
    twin: BaseException = copy.copy(error)
    twin.__cause__ = error.__cause__
    return twin


class Listener(AsyncIterator[bytes]):
    """The payloads of one event, from the moment of `Client.on`.

    Iterate with `async for` or `anext`; cancelling that loses nothing. It ends when the listener or
    the client is closed, and raises `ConnectionLost` when the connection is lost, or
    `ListenerOverflow` when it fell behind, each after the payloads that it still holds.
    """

    def __init__(self, subscription: Subscription, client: object) -> None:
        self._subscription = subscription
        # Whoever listens has not let go of the client.
        self._client = client

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        subscription = self._subscription
        while True:
            payload = subscription.take()
            if payload is not None:
                return payload
            if subscription.over:
                if subscription.error is not None:
                    # A fresh one each: its traceback refers to this frame, which leads to the error.
                    raise another(subscription.error)
                raise StopAsyncIteration
            # Shielded: several may wait for the same future.
            await asyncio.shield(subscription.wait(asyncio.get_running_loop()))

    async def aclose(self) -> None:
        """Unsubscribe. What it still holds is dropped; iterating it ends."""
        self._subscription.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # A loop that was left by `break` does not close its iterator.
        self._subscription.cancel()
