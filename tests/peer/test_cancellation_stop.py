"""Cancellation by the stop of the server: grace, one cancel, a last one, and an end in any case."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import sockrpc
from tests.kit.support import (
    CLOSE,
    PATIENCE,
    TEXT,
    V0,
    frame,
    notify,
    request,
    reset,
    serving,
    started,
    until,
)
from tests.kit.work import Work


@pytest.mark.row(14)
async def test_calls_in_flight_are_answered_before_the_close() -> None:
    """A graceful stop aborts nothing that ends within the grace."""
    work = Work()
    async with serving(work.app(), stop_grace=60) as here, await here.raw() as raw:
        await raw.send(request(1, "work"), request(2, "work"))
        await until(lambda: len(work.calls) == 2)
        here.server.close()
        await raw.synchronize()
        work.may_answer.set()
        assert sorted([await raw.answer(), await raw.answer()]) == [(1, b"answer"), (2, b"answer")]
        assert await raw.closing() == (1001, "server stopping")
        assert here.server.statistics().calls_stopped == 0
    assert work.cancels == []


async def test_idle_connections_are_closed_at_once() -> None:
    work = Work()
    async with (
        serving(work.app(), stop_grace=60) as here,
        await here.raw() as idle,
        await here.raw() as busy,
    ):
        await busy.send(request(1, "work"))
        await until(lambda: work.calls)
        here.server.close()
        assert await idle.closing() == (1001, "server stopping")
        await busy.synchronize()
        with pytest.raises((ConnectionRefusedError, ConnectionResetError)):
            await here.raw()
        # A connection whose last call is reset is idle.
        await busy.send(reset(1))
        assert await busy.closing() == (1001, "server stopping")


@pytest.mark.both_protocols
@pytest.mark.row(5)
async def test_no_call_starts_while_the_server_stops() -> None:
    """What waits is taken out of the queue, and what comes now is not begun."""
    work = Work()
    async with serving(work.app(), stop_grace=60, max_in_flight=1) as here, await here.raw() as raw:
        await raw.send(request(1, "work"), request(2, "work"))
        await raw.synchronize()
        await until(lambda: work.calls)
        here.server.close()
        assert here.server.statistics().calls_stopped == 1
        await raw.send(request(3, "work"), request(4, "echo", b"x"))
        await raw.synchronize()
        work.may_answer.set()
        assert await raw.answer() == (1, b"answer")
        assert await raw.closing() == (1001, "server stopping")
    assert len(work.calls) == 1


@pytest.mark.both_protocols
@pytest.mark.row(14)
async def test_the_close_does_not_wait_for_work_that_goes_on_after_its_answer() -> None:
    """Nothing is in flight any more, and the end cancels it."""
    app = sockrpc.App()
    work = Work()

    @app.method("work")
    async def answering(call: sockrpc.Call) -> None:
        await work.may_answer.wait()
        await call.respond(b"early")
        work.may_answer.clear()
        await work(call)

    async with serving(app, stop_grace=60) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        await raw.synchronize()
        here.server.close()
        work.may_answer.set()
        assert await raw.answer() == (1, b"early")
        assert await raw.closing() == (1001, "server stopping")
    assert (work.cancels, work.ended) == ([1], 1)


async def test_a_reset_behind_a_full_queue_is_seen_when_the_stop_empties_it() -> None:
    work = Work()
    limits = {"max_in_flight": 1, "max_waiting_calls": 1, "stop_grace": 60}
    async with serving(work.app(), **limits) as here, await here.raw() as raw:
        await raw.send(request(1, "work"), request(2, "work"), reset(1))
        await until(lambda: here.server.statistics().procedures_waiting == 1)
        here.server.close()
        assert await raw.closing() == (1001, "server stopping")
        assert here.server.statistics().calls_reset == 1
    assert (work.cancels, work.reasons) == ([1], ["reset"])


async def test_notifications_that_wait_do_not_start_after_the_grace() -> None:
    app = sockrpc.App()
    begun: list[bytes] = []

    @app.on
    async def note(notification: sockrpc.Notification) -> None:
        begun.append(notification.payload)
        await asyncio.Event().wait()

    async with serving(app, stop_grace=0.05, max_notifications=1) as here, await here.raw() as raw:
        await raw.send(*(notify("note", b"%d" % n) for n in range(3)))
        await until(lambda: here.server.statistics().procedures_waiting == 2)
        here.server.close()
        await raw.wait(here.server.wait_closed())
        assert here.server.statistics().notifications_dropped == 2
    assert begun == [b"0"]


@pytest.mark.row(9, 14)
async def test_one_cancel_when_the_grace_is_over() -> None:
    """The stop is one more kind of loss; and row 9: clean-up may wait after it."""
    work = Work()
    work.may_unwind.clear()
    async with serving(work.app(), stop_grace=0.05, abort_grace=60) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        await until(lambda: work.calls)
        here.server.close()
        assert not work.calls[0].is_reset
        assert await raw.closing() == (1001, "server stopping")
        assert (work.cancels, work.reasons) == ([1], ["stop"])
        await raw.send(frame(CLOSE))
        assert await raw.nothing_more()
        waiting = await started(here.server.wait_closed())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not waiting.done()
        assert here.server.statistics().calls_stopped == 1
        work.may_unwind.set()
        await waiting
    assert (work.cancels, work.ended) == ([1], 1)


@pytest.mark.row(21)
async def test_the_stop_waits_for_work_that_unwinds() -> None:
    """Also for work that was reset or lost before the stop began."""
    work = Work()
    work.may_unwind.clear()
    async with serving(work.app(), stop_grace=60) as here:
        async with await here.raw() as raw:
            await raw.send(request(1, "work"), request(2, "work"))
            await until(lambda: len(work.calls) == 2)
            await raw.send(reset(1))
            await until(lambda: len(work.cancels) == 1)
        await until(lambda: len(work.cancels) == 2)
        here.server.close()
        waiting = await started(here.server.wait_closed())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not waiting.done()
        work.may_unwind.set()
        await waiting
        assert work.ended == 2
    assert (work.cancels, work.reasons) == ([1, 1], ["reset", "lost"])


async def test_a_stop_without_grace() -> None:
    work = Work()
    async with serving(work.app(), stop_grace=0, abort_grace=5) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        await until(lambda: work.calls)
        here.server.close()
        assert await raw.closing() == (1001, "server stopping")
        await raw.send(frame(CLOSE))
        await here.server.wait_closed()
    assert (work.cancels, work.reasons, work.ended) == ([1], ["stop"], 1)


@pytest.mark.both_protocols
@pytest.mark.row(14)
async def test_a_loss_while_the_server_stops_is_a_loss() -> None:
    """The reason says what happened to the call."""
    work = Work()
    async with serving(work.app(), stop_grace=60) as here:
        async with await here.raw() as raw:
            await raw.send(request(1, "work"))
            await until(lambda: work.calls)
            here.server.close()
        await here.server.wait_closed()
    assert (work.cancels, work.reasons) == ([1], ["lost"])


@pytest.mark.both_protocols
@pytest.mark.row(14, 18)
@pytest.mark.parametrize("completes", [False, True], ids=["aborted", "run to completion"])
@pytest.mark.parametrize("why", ["protocol error", "application"])
async def test_a_loss_by_our_own_close_while_the_server_stops_is_a_loss(why: str, completes: bool) -> None:
    """Where it is our side that closes; and row 18: within the grace such work is not aborted."""
    work = Work()
    async with serving(work.app(run_to_completion=completes), stop_grace=60) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        await until(lambda: work.calls)
        socket = here.only_socket()
        here.server.close()
        if why == "application":
            closing = await started(socket.close(4000))
            assert (await raw.closing())[0] == 4000
        else:
            closing = await started(raw.send(frame(TEXT, b"text")))
            assert (await raw.closing())[0] == 1003
        await raw.close()
        await closing
        await until(lambda: work.calls[0].is_reset)
        work.may_answer.set()
        await here.server.wait_closed()
    assert work.calls[0].abort_reason == "lost"
    assert work.cancels == ([] if completes else [1])


@pytest.mark.both_protocols
@pytest.mark.row(21)
async def test_the_end_of_the_grace_aborts_notification_handlers() -> None:
    """They are waited for within the grace, and ended after it."""
    app = sockrpc.App()
    cancels: list[int] = []
    running = asyncio.Event()

    @app.on("event")
    async def event(notification: sockrpc.Notification) -> None:
        running.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            cancels.append(task.cancelling())
            raise

    async with serving(app, stop_grace=0.05, abort_grace=60) as here:
        async with await here.raw() as raw:
            await raw.send(notify("event"))
            await running.wait()
            here.server.close()
            assert await raw.closing() == (1001, "server stopping")
            await raw.send(frame(CLOSE))
            assert cancels == []
        await here.server.wait_closed()
        assert here.server.statistics().notifications_failed == 0
    assert cancels == [1]


@pytest.mark.both_protocols
@pytest.mark.row(21)
async def test_cancelling_wait_closed_does_not_end_the_stopping() -> None:
    """Who waits may give up; the server still waits for the work."""
    work = Work()
    work.may_unwind.clear()
    async with serving(work.app(), stop_grace=0.01, abort_grace=60) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        await until(lambda: work.calls)
        here.server.close()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await here.server.wait_closed()
        await until(lambda: work.cancels)
        await raw.send(frame(CLOSE))
        work.may_unwind.set()
        await here.server.wait_closed()
    assert (work.cancels, work.ended) == ([1], 1)


STUCK = """
import sockrpc, threading

app = sockrpc.App()

@app.method(thread=True)
def stuck(call):
    threading.Event().wait()

@app.method()
async def stubborn(call):
    import asyncio
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

app.method("ready")(lambda call: b"")

def started(server):
    print(server.sockets[0].getsockname()[1], flush=True)

sockrpc.run(app, "127.0.0.1", 0, loop={loop!r}, on_started=started, stop_grace=0.1, abort_grace=0.1)
print("stopped", flush=True)
"""


@pytest.mark.both_protocols
@pytest.mark.row(10, 21)
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM to send")
async def test_neither_a_stuck_thread_nor_a_stubborn_task_keeps_a_stopped_process(loop_kind: str) -> None:
    """The threads are daemonic; and row 21: the process ends regardless."""
    source = Path(sockrpc.__file__).parent.parent
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        STUCK.format(loop=loop_kind),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(source)},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE * 2):
            port = int(await process.stdout.readline())
            async with sockrpc.connect(f"ws://127.0.0.1:{port}/", protocols=V0) as client:
                calls = [await started(client.call(method)) for method in ("stuck", "stubborn")]
                await client.call("ready")
                process.send_signal(signal.SIGTERM)
                for call in calls:
                    with pytest.raises(sockrpc.ConnectionLost) as lost:
                        await call
                    assert lost.value.code == 1001
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (process.returncode, output.strip()) == (0, b"stopped"), errors.decode()
    assert b"Traceback" not in errors
    assert b"'stuck'" in errors
    assert b"'stubborn'" in errors
