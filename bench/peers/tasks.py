"""The cost of as many eager tasks in plain asyncio, without a network: the same loop, handler and collector.

Commands come line by line, and answers are numbers: `rate SECONDS IN_FLIGHT` (tasks per second), `memory
COUNT` (bytes for each suspended task with its coroutine, and the future that it waits for), `streams COUNT`
(the same for tasks that drive an async generator).
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import uvloop

from bench.memory import private_bytes
from bench.peers.common import arguments
from sockrpc.process.event_loop import collector_for_serving

PAYLOAD = bytes(32)


class Argument:
    """The replacement of a handler's call."""

    __slots__ = ("payload",)

    def __init__(self, payload: bytes) -> None:
        self.payload = payload


async def suspending(argument: Argument) -> bytes:
    await asyncio.sleep(0)
    return argument.payload


async def suspended(argument: Argument) -> None:
    await asyncio.get_running_loop().create_future()


async def endless(argument: Argument) -> AsyncIterator[bytes]:
    while True:
        yield argument.payload


async def driven(argument: Argument) -> None:
    """Wait between two items of a generator, as for credit."""
    async for _ in endless(argument):
        await asyncio.get_running_loop().create_future()


def eager(loop: asyncio.AbstractEventLoop, coroutine: Any) -> asyncio.Task[Any]:
    if sys.version_info >= (3, 12):
        return asyncio.Task(coroutine, loop=loop, eager_start=True)
    return loop.create_task(coroutine)


async def rate(seconds: float, in_flight: int) -> float:
    """Return tasks per second, in batches like those of one read and of the reads of one iteration."""
    loop = asyncio.get_running_loop()
    argument = Argument(PAYLOAD)
    done = 0
    begin = time.perf_counter()
    while time.perf_counter() < begin + seconds:
        tasks = [eager(loop, suspending(argument)) for _ in range(in_flight)]
        while not tasks[-1].done():  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert all(task.result() is PAYLOAD for task in tasks)
        done += in_flight
    return done / (time.perf_counter() - begin)


async def memory(count: int, work: Any) -> float:
    loop = asyncio.get_running_loop()
    argument = Argument(PAYLOAD)
    before = private_bytes()
    tasks = [eager(loop, work(argument)) for _ in range(count)]
    await asyncio.sleep(0)
    used = (private_bytes() - before) / count
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return used


def main() -> None:
    arguments()
    # The collector has the same settings as in the server under comparison.
    with collector_for_serving(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for line in sys.stdin:
            what, *numbers = line.split()
            if what == "rate":
                answer = runner.run(rate(float(numbers[0]), int(numbers[1])))
            else:
                answer = runner.run(memory(int(numbers[0]), driven if what == "streams" else suspended))
            sys.stdout.write(f"{answer}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
