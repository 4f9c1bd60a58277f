"""Work that does not end within the abort grace of a stop: it is cancelled again, named and left behind."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter

import pytest

import sockrpc
from tests.kit.support import PATIENCE, request, reset, serving, until
from tests.kit.work import Stubborn


@pytest.mark.both_protocols
@pytest.mark.row(9, 21)
async def test_work_that_does_not_end_is_cancelled_again_named_and_left_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A second cancel only at a forced close; and row 21: then the stop ends regardless."""
    stubborn = Stubborn()
    app = sockrpc.App()
    app.method("mule")(stubborn)
    async with serving(app, stop_grace=0.05, abort_grace=0.1) as here:
        async with await here.raw() as raw:
            await raw.send(request(1, "mule"), request(2, "mule"))
            await until(lambda: len(stubborn.calls) == 2)
            await raw.send(reset(2))
            await until(lambda: stubborn.cancels)
            here.server.close()
            async with asyncio.timeout(PATIENCE):
                await here.server.wait_closed()
        assert sorted(stubborn.cancels) == [1, 1, 2, 2]
        assert stubborn.ended == 0
        assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
        assert all("'mule'" in record.getMessage() for record in caplog.records)
        stubborn.may_unwind.set()
        await until(lambda: stubborn.ended == 2)


async def test_of_very_many_that_do_not_end_some_are_cancelled_again_in_each_turn_of_the_loop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = sockrpc.App()
    turn = begun = 0
    turns: list[int] = []
    count = 300

    @app.method
    async def mule(call: sockrpc.Call) -> None:
        nonlocal begun
        begun += 1
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        turns.append(turn)

    async def count_turns() -> None:
        nonlocal turn
        while len(turns) < count:
            turn += 1
            await asyncio.sleep(0)

    async with serving(app, stop_grace=0.05, abort_grace=0.1) as here, await here.raw() as raw:
        await raw.send(*(request(n, "mule") for n in range(count)))
        await until(lambda: begun == count)
        here.server.close()
        counting = asyncio.create_task(count_turns())
        async with asyncio.timeout(PATIENCE):
            await here.server.wait_closed()
            await counting
    assert max(Counter(turns).values()) < count / 2
    assert len(caplog.records) == count


@pytest.mark.parametrize("how", ["wait_reset", "abort_on_reset"])
async def test_a_handler_that_took_its_abort_by_a_wait_is_cancelled_at_the_end_of_the_abort_grace(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The abort reached what it waited for; it has gone on, and the last cancel is for itself."""
    app = sockrpc.App()
    began: list[str] = []
    cancels: list[int] = []

    async def swallow_one() -> None:
        for _ in range(2):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    @app.method("mule")
    async def mule(call: sockrpc.Call) -> None:
        began.append(how)
        try:
            if how == "wait_reset":
                await call.wait_reset()
            else:
                await call.abort_on_reset(swallow_one())
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            cancels.append(task.cancelling())
            raise

    async with serving(app, stop_grace=0.02, abort_grace=0.05) as here, await here.raw() as raw:
        await raw.send(request(1, "mule"))
        await until(lambda: began)
        here.server.close()
        async with asyncio.timeout(PATIENCE):
            await here.server.wait_closed()
        await until(lambda: cancels)
    assert cancels == [1]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
