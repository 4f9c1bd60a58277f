"""The lines of standard input, as they come."""

from __future__ import annotations

import asyncio
import errno
import os
import queue
import sys
import threading
from collections.abc import AsyncIterator

__all__ = ["lines_of_input"]

PIECE = 65536


async def lines_of_input() -> AsyncIterator[bytes]:
    """Yield the lines of standard input without their line feeds; one without a line feed may end it.

    Raises:
        OSError: It is closed, or cannot be read.
    """
    rest: list[bytes] = []
    async for piece in pieces_of_input():
        first, *others = piece.split(b"\n")
        rest.append(first)
        if others:
            yield b"".join(rest)
            for line in others[:-1]:
                yield line
            rest = [others[-1]]
    if last := b"".join(rest):
        yield last


async def pieces_of_input() -> AsyncIterator[bytes]:
    """Yield what comes, each piece read when the one before it is used up."""
    if sys.stdin is None:
        raise OSError(errno.EBADF, "standard input is closed")
    loop = asyncio.get_running_loop()
    # A loop cannot wait for a file, nor on Windows for a pipe, so a thread reads. The process does not wait
    # for the thread at its end, as it may read from a terminal; and it takes no lock of a file object, as the
    # end of the process takes too.
    wanted: queue.SimpleQueue[asyncio.Future[bytes] | None] = queue.SimpleQueue()
    threading.Thread(target=read_pieces, args=(sys.stdin.fileno(), wanted, loop), daemon=True).start()
    try:
        while True:
            future: asyncio.Future[bytes] = loop.create_future()
            wanted.put(future)
            piece = await future
            if not piece:
                return
            yield piece
    finally:
        wanted.put(None)


def read_pieces(
    descriptor: int, wanted: queue.SimpleQueue[asyncio.Future[bytes] | None], loop: asyncio.AbstractEventLoop
) -> None:
    """Read a piece for each future, in a thread."""
    while (future := wanted.get()) is not None:
        try:
            piece: bytes | OSError = os.read(descriptor, PIECE)
        except OSError as error:
            piece = error
        try:
            loop.call_soon_threadsafe(settle, future, piece)
        except RuntimeError:
            # The loop was closed meanwhile.
            return


def settle(future: asyncio.Future[bytes], piece: bytes | OSError) -> None:
    """Give a piece to the one that waits for it, if somebody still does."""
    if future.done():
        return
    if isinstance(piece, OSError):
        future.set_exception(piece)
    else:
        future.set_result(piece)
