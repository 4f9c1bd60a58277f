"""Plain generators as handlers, each run by a worker thread from its first step to its close."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from sockrpc.peer.tracked import Tracked

if TYPE_CHECKING:
    from sockrpc.peer.call import Call

__all__ = ["run_generator"]


def run_generator(
    function: Callable[[Call], Iterator[object]],
    loop: asyncio.AbstractEventLoop,
    stall_timeout: float | None,
    call: Call,
) -> None:
    """Send what a generator yields; an abort is raised in it at `yield`.

    Raises:
        TimeoutError: The caller has granted no credit for `stall_timeout` seconds.
    """
    generator = function(call)
    try:
        item = next(generator)
        while True:
            sending = asyncio.run_coroutine_threadsafe(send(call, item), loop)
            try:
                sent = sending.result(stall_timeout)
            except Exception as error:
                sending.cancel()
                item = generator.throw(error)  # type: ignore[attr-defined]
                continue
            # Work that runs to completion goes on, although nobody takes its items.
            if not sent and call._is_cancelled:
                call._note_seen()
                generator.throw(asyncio.CancelledError())  # type: ignore[attr-defined]
                # It has swallowed the abort and yielded again.
                return
            item = next(generator)
    except StopIteration:
        pass
    finally:
        generator.close()  # type: ignore[attr-defined]


async def send(call: Call, item: object) -> bool:
    """Send one item, in the loop's thread."""
    if isinstance(item, Tracked):
        return await call.send(item.payload, cursor=item.cursor)
    return await call.send(item)  # type: ignore[arg-type]
