"""`blocked_warning`, seen from inside; tests/hostile has it on a server in a process of its own."""

from __future__ import annotations

import asyncio
import sys
import time

import pytest

import sockrpc
from sockrpc.observe.watchdog import has_interpreter_lock
from tests.kit.support import PATIENCE, notify, request, serving, until

THRESHOLD = 0.1
BLOCK = 0.3


def is_told() -> bool:
    """Replaced by a test that waits for somebody to be named."""
    return True


def crunch() -> None:
    end = time.monotonic() + PATIENCE / 2
    time.sleep(BLOCK)
    # On a busy machine the one who watches may not have had the time to look. This has to work meanwhile:
    # time in which no thread of the process runs does not count as a block.
    while not is_told() and time.monotonic() < end:
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
        call.spawn_and_abort_on_reset(later_step(call))

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
async def test_what_blocks_the_loop_is_named_among_others(
    sent: bytes, who: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "is_told", lambda: who in caplog.text)
    async with serving(blocking_app(), blocked_warning=THRESHOLD) as here, await here.raw() as raw:
        # Others that are running, and do not block.
        await raw.send(request(1, "wait"), notify("waiting"), sent)
        await until(lambda: who in caplog.text)
    # On a machine that is busy with other things more may be told, of others as well.
    lines = [each.getMessage() for each in caplog.records]
    assert any(line.startswith(who) and line.endswith(" in crunch") for line in lines), lines


async def test_a_task_that_is_no_handler_is_named_too(caplog: pytest.LogCaptureFixture) -> None:
    async def somebody_else() -> None:
        await asyncio.sleep(0)
        crunch()

    async with serving(blocking_app(), blocked_warning=THRESHOLD) as here, await here.raw():
        await asyncio.create_task(somebody_else(), name="other")
        await until(lambda: "blocked the event loop" in caplog.text)
    assert "task 'other' (" in caplog.text


async def test_an_idle_loop_blocks_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(blocking_app(), blocked_warning=0.05) as here, await here.raw() as raw:
        await asyncio.sleep(0.3)  # the time is what is tested
        await raw.synchronize()
    assert "blocked" not in caplog.text
