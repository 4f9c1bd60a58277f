"""`blocked_warning`, seen from inside; tests/hostile has it on a server in a process of its own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import sockrpc
from sockrpc.observe.watchdog import has_interpreter_lock
from tests.kit.support import PATIENCE, notify, request, serving, until

THRESHOLD = 0.1
BLOCK = 0.3


# The lines of the log that name the one that a test waits for.
told: list[str] = []


@contextmanager
def telling(who: str) -> Iterator[None]:
    """Note the lines of the log that name somebody."""

    class Noting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if who in record.getMessage():
                told.append(record.getMessage())

    handler = Noting()
    logging.getLogger("sockrpc.server").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("sockrpc.server").removeHandler(handler)
        told.clear()


def crunch() -> None:
    """Block the loop until it was seen; whatever it calls is compiled, so it is seen nowhere else."""
    end = time.monotonic() + PATIENCE / 2
    time.sleep(BLOCK)
    # On a busy machine the one who watches may not have had the time to look. This has to work meanwhile:
    # time in which no thread of the process runs does not count as a block.
    while not told and time.monotonic() < end:
        sum(range(10_000))


def blocking_app() -> sockrpc.App:
    app = sockrpc.App()

    @app.method("first_step")
    async def first_step(call: sockrpc.Call) -> None:
        crunch()

    @app.method("later_step")
    async def later_step(call: sockrpc.Call) -> None:
        await asyncio.sleep(0)
        crunch()

    @app.method("spawned_step")
    def spawned_step(call: sockrpc.Call) -> None:
        async def answer_later() -> None:
            await later_step(call)
            await call.respond(b"")

        call.spawn_and_abort_on_reset(answer_later())

    @app.method("wait")
    async def wait(call: sockrpc.Call) -> None:
        await call.wait_reset()

    @app.on("event")
    async def event(notification: sockrpc.Notification) -> None:
        await asyncio.sleep(0)
        crunch()

    @app.on("waiting")
    async def waiting(notification: sockrpc.Notification) -> None:
        await asyncio.sleep(BLOCK)

    return app


@pytest.mark.skipif(
    not has_interpreter_lock(), reason="what runs may be looked at under the interpreter's lock only"
)
@pytest.mark.parametrize(
    ("sent", "who"),
    [
        (request(2, "first_step"), "method 'first_step' (call 2 of "),
        (request(2, "later_step"), "method 'later_step' (call 2 of "),
        (request(2, "spawned_step"), "method 'spawned_step' (call 2 of "),
        (notify("event"), "the handler of event 'event' of "),
    ],
    ids=["first step", "later step", "spawned", "event"],
)
async def test_what_blocks_the_loop_is_named_among_others(sent: bytes, who: str) -> None:
    with telling(who):
        async with serving(blocking_app(), blocked_warning=THRESHOLD) as here, await here.raw() as raw:
            # Others that are running, and do not block.
            await raw.send(request(1, "wait"), notify("waiting"), sent)
            await until(lambda: told)
        assert any(line.startswith(who) and line.endswith(" in crunch") for line in told), told


async def test_a_task_that_is_no_handler_is_named_too() -> None:
    async def somebody_else() -> None:
        await asyncio.sleep(0)
        crunch()

    with telling("task 'other' ("):
        async with serving(blocking_app(), blocked_warning=THRESHOLD) as here, await here.raw():
            await asyncio.create_task(somebody_else(), name="other")
            await until(lambda: told)


async def test_an_idle_loop_blocks_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(blocking_app(), blocked_warning=0.05) as here, await here.raw() as raw:
        await asyncio.sleep(0.3)  # the time is what is tested
        await raw.synchronize()
    assert "blocked" not in caplog.text
