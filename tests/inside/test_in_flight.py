"""Which procedure runs at this moment, and calls that are in flight at a client, from inside."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import sockrpc
from sockrpc.peer.in_flight import find_running
from tests.kit.pair import MemoryServer
from tests.kit.support import notify, request, serving, started, until

# Freed one inside the other, so many need more than this stack.
QUEUED = 300_000
STACK_BYTES = 512 * 1024


async def test_a_handler_that_lets_another_start_in_its_first_step_is_the_one_that_runs_after_it() -> None:
    app = sockrpc.App()

    @app.method("wait")
    async def wait(call: sockrpc.Call) -> None:
        await call.wait_reset()

    running: list[object] = []
    expected: list[object] = []

    @app.on
    def note(notification: sockrpc.Notification) -> None:
        expected.append(notification)
        running.append(find_running(here.server._service, None))

    @app.method
    def close_others(call: sockrpc.Call) -> None:
        for socket in here.server.connections:
            if socket is not call.socket:
                # What waits behind its calls starts in this very step.
                socket._connection.close(1000, "")
        expected.append(call)
        running.append(find_running(here.server._service, None))

    async with (
        serving(app, max_in_flight=1) as here,
        await here.raw() as raw,
        await here.raw() as other,
    ):
        await other.send(request(1, "wait"), request(2, "wait"), notify("note"))
        await until(lambda: here.server.statistics().procedures_waiting == 2)
        await raw.send(request(1, "close_others"))
        assert await raw.answer() == (1, b"")
        assert [type(each) for each in expected] == [sockrpc.Notification, sockrpc.Call]
        assert running == expected
        assert find_running(here.server._service, None) is None


def test_cancelled_requests_that_were_never_written_are_freed_without_a_stack_overflow() -> None:
    async def play() -> None:
        app = sockrpc.App()
        app.method("echo")(lambda call: call.payload)
        limits = {"output_high_bytes": 10, "output_low_bytes": 5}
        async with MemoryServer(app) as here:
            client, _ = here.connect(capacity=1, limits=limits)
            calls = [await started(client.call("echo", bytes(20))) for _ in range(3)]
            connection = client._connection
            assert not connection.is_writable()
            for _ in range(QUEUED):
                connection.abandon(connection.request(b"echo", b""))
            connection.abort("gone")
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(each) for each in results} == {sockrpc.ConnectionLost}

    def in_a_thread() -> None:
        asyncio.run(play())
        # The first of them is in a cycle with the exception that its waiter got.
        gc.collect()
        ended.append(True)

    ended: list[bool] = []
    # With the main thread's stack it would take millions of them.
    before = threading.stack_size(STACK_BYTES)
    try:
        thread = threading.Thread(target=in_a_thread)
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    assert ended


async def test_a_request_in_a_reference_cycle_goes_with_its_connection() -> None:
    app = sockrpc.App()
    app.method("wait")(lambda call: asyncio.sleep(3600))
    async with serving(app) as here:
        async with here.connect() as client:
            pending = client._connection.request(b"wait", b"nobody waits")
            # Nothing of this is ever finalized in Python, so the collector clears it piece by piece.
            pending.future.cycle = pending  # type: ignore[attr-defined]
            reference = weakref.ref(pending.future)
            assert client.status().pending == [pending.id]
            del pending
            gc.collect()
            # The connection refers to it: its answer may still come.
            assert client.status().pending != []
        assert client.status().pending == []
        gc.collect()
        assert reference() is None
