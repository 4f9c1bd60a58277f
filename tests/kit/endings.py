"""Errors that end the process, KeyboardInterrupt and SystemExit, raised by a function of the application."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass
class Expected:
    """An error that a test expects, and whether it has come out of the event loop."""

    kind: type[BaseException]
    came: bool = False


expected: list[Expected] = []


@contextlib.contextmanager
def ends_the_process(error: type[BaseException]) -> Iterator[None]:
    """Expect such an error during the block, out of what it calls or out of a callback of the event loop.

    The clock decides which, as work for which a turn has no time left is done in a later one. Out of a
    callback it comes to whoever runs the loop, where `run_to_end` goes on with the test.
    """
    one = Expected(error)
    expected.append(one)
    try:
        yield
    except error:
        one.came = True
    finally:
        expected.remove(one)
    assert one.came, f"no {error.__name__} was raised"


def run_to_end(loop: asyncio.AbstractEventLoop, test: Coroutine[Any, Any, None]) -> None:
    """Run a test to its end, through the errors that it expects out of callbacks of the loop."""
    task = loop.create_task(test)
    while not task.done():
        try:
            loop.run_until_complete(task)
        except (KeyboardInterrupt, SystemExit) as error:
            one = next((one for one in expected if not one.came and type(error) is one.kind), None)
            if one is None or task.done():
                raise
            one.came = True
