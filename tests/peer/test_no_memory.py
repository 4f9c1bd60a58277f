"""Memory that is not there, at each allocation in turn: a procedure that cannot start counts no more."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import sockrpc
from tests.kit.pair import MemoryServer
from tests.kit.support import notify, request

_testcapi: Any = pytest.importorskip(
    "_testcapi", reason="this interpreter comes without the tests of its API"
)

# More than there are on the way of one procedure.
ALLOCATIONS = 40


def make_app() -> sockrpc.App:
    app = sockrpc.App()

    @app.method("work")
    @app.on("work")
    def work(procedure: sockrpc.Call | sockrpc.Notification) -> None:
        return None

    return app


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """It would run where there is no memory, and its callbacks would find none."""
    if sys.gettrace() is not None:
        pytest.skip("what traces the tests needs memory too, and gives up without")
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", ["call", "notification"])
async def test_what_cannot_start_for_want_of_memory_counts_no_more(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    message = request(1, "work", bytes(100)) if kind == "call" else notify("work", bytes(100))
    failed = 0
    # Freed contexts are kept for the next ones, which then need no memory.
    contexts: list[contextvars.Context] = []
    async with MemoryServer(make_app()) as here:
        for number in range(ALLOCATIONS):
            raw, pair = here.raw()
            connection = pair.server.get_protocol()
            raw.send(message)
            contexts += [contextvars.copy_context() for _ in range(300)]
            with contextlib.suppress(MemoryError):
                _testcapi.set_nomemory(number, number + 1)
                try:
                    pair.server.receive(len(message))
                except MemoryError:
                    failed += 1
                    raise
                finally:
                    _testcapi.remove_mem_hooks()
            pair.server.break_off()
            for _ in range(5):
                await asyncio.sleep(0)
            assert connection.load == (0, 0, 0), f"allocation {number}"
        assert here.service.attached == 0
    assert failed >= 5
