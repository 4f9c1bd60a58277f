"""`sockrpc bench --stream`, which reads streams as fast as a server sends them, and counts their items."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, ClassVar

import sockrpc
from sockrpc.bench.load import Load, Measured, milliseconds, no_answer

__all__ = ["MeasuredItems", "StreamLoad"]


class StreamLoad(Load):
    """Streams to read, each opened again when it is over."""

    async def try_out(self, client: sockrpc.Client) -> None:
        """Open the first stream, and wait for its first item or its end.

        Raises:
            TimeoutError: Neither came in time.
            RPCError: The method does not exist, or has failed, or the server speaks v0.1.
        """
        try:
            # A block would say that items may be sent.
            async with (
                asyncio.timeout(self.first_timeout),
                aclosing(client.stream(self.method, self.payload)) as stream,
            ):
                await anext(stream, None)
        except sockrpc.RPCError:
            raise
        except TimeoutError:
            raise no_answer(self) from None

    def begin(self) -> MeasuredItems:
        """Begin to measure."""
        return MeasuredItems(self)


@dataclass
class MeasuredItems(Measured):
    """The measurements so far.

    Attributes:
        latencies: Times from the opening of a stream to its first item.
        items: The items that came.
        item_bytes: Their bytes.
        streams: The streams that were read to their ends.
    """

    TIMES: ClassVar[str] = "first item"

    items: int = 0
    item_bytes: int = 0
    streams: int = 0

    async def keep_calling(self, client: sockrpc.Client) -> None:
        """Read one stream after the other."""
        load = self.load
        clock = time.perf_counter
        while True:
            began = clock()
            async with aclosing(client.stream(load.method, load.payload, timeout=load.timeout)) as stream:
                first = await anext(stream, None)
                if first is not None:
                    self.latencies.add(clock() - began)
                    self.items += 1
                    self.item_bytes += len(first)
                async for item in stream:
                    self.items += 1
                    self.item_bytes += len(item)
            self.streams += 1

    @property
    def items_per_second(self) -> float:
        """Items divided by the elapsed time."""
        return self.items / self.seconds if self.seconds else 0.0

    @property
    def bytes_per_second(self) -> float:
        """Bytes of items divided by the elapsed time."""
        return self.item_bytes / self.seconds if self.seconds else 0.0

    def counts(self) -> dict[str, Any]:
        """Return what was counted."""
        return {
            "streams": self.streams,
            "items": self.items,
            "item_bytes": self.item_bytes,
            "items_per_second": round(self.items_per_second, 1),
            "bytes_per_second": round(self.bytes_per_second, 1),
            "first_item": dict(self.times()),
        }

    def line(self) -> str:
        """Return the progress as a line."""
        first = self.latencies.percentile(50)
        return f"{self.seconds:5.1f} s  {self.total()}  first item p50 {milliseconds(first)}"

    def total(self) -> str:
        """Return the line of what was counted."""
        return (
            f"{self.items:,} items, {self.items_per_second:,.0f} a second, "
            f"{self.bytes_per_second / 1e6:,.1f} MB a second; {self.streams:,} streams read to their ends"
        )
