"""`serve` and its server: what it listens on, who is connected, what it counts."""

from __future__ import annotations

import asyncio
import socket as socket_module
import struct
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import sockrpc
from tests.kit.command import POSIX
from tests.kit.support import PATIENCE, frame, notify, request, reset, serving, started, until
from tests.kit.work import Work


async def test_sockets_are_what_it_listens_on_until_it_stops() -> None:
    async with sockrpc.serve(sockrpc.App(), "127.0.0.1", 0) as server:
        (listening,) = server.sockets
        host, port = listening.getsockname()
        assert host == "127.0.0.1"
        async with sockrpc.connect(f"ws://127.0.0.1:{port}/"):
            assert len(server.connections) == 1
        server.close()
        assert server.sockets == ()
        with pytest.raises(ConnectionRefusedError):
            socket_module.create_connection(("127.0.0.1", port)).close()


async def test_awaiting_serve_leaves_the_stopping_to_the_caller() -> None:
    server = await sockrpc.serve(sockrpc.App(), "127.0.0.1", 0)
    serving_forever = await started(server.serve_forever())
    waiting = await started(server.wait_closed())
    waiting.cancel()
    await until(waiting.done)
    assert not serving_forever.done()
    server.close()
    server.close()
    await server.wait_closed()
    await serving_forever
    async with server:
        # One that has stopped may be left like any other.
        pass


async def test_cancelling_serve_forever_stops_nothing_and_leaving_the_block_does() -> None:
    async with sockrpc.serve(sockrpc.App(), "127.0.0.1", 0) as server:
        serving_forever = await started(server.serve_forever())
        serving_forever.cancel()
        await until(serving_forever.done)
        async with sockrpc.connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"):
            pass
    assert server.sockets == ()


async def test_wait_stopping_waits_for_the_beginning_of_the_stop_and_not_for_its_end() -> None:
    work = Work()
    async with serving(work.app(), stop_grace=60) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        await until(lambda: work.calls)
        waiting = [await started(here.server.wait_stopping()) for _ in range(2)]
        cancelled = await started(here.server.wait_stopping())
        cancelled.cancel()
        await raw.synchronize()
        assert not any(each.done() for each in waiting)
        closed = await started(here.server.wait_closed())
        here.server.close()
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*waiting)
        # Who asks later need not wait.
        await here.server.wait_stopping()
        assert not closed.done()
        work.may_answer.set()
        assert await raw.answer() == (1, b"answer")
        await raw.closing()
        await raw.close()
        await closed
        await here.server.wait_stopping()


def longest_backlog() -> int:
    """What the system allows."""
    return int(Path("/proc/sys/net/core/somaxconn").read_text())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the backlog of a socket that listens")
@pytest.mark.parametrize(("options", "expected"), [({}, 1024), ({"backlog": 7}, 7)])
@pytest.mark.parametrize("bound", [False, True], ids=["port", "sock"])
async def test_the_backlog_is_the_documented_one_unless_another_is_given(
    bound: bool, options: dict[str, Any], expected: int
) -> None:
    place: dict[str, Any] = {"host": "127.0.0.1", "port": 0}
    if bound:
        # It listens already, with another one.
        place = {"sock": socket_module.create_server(("127.0.0.1", 0), backlog=3)}
    async with sockrpc.serve(sockrpc.App(), **place, **options) as server:
        # struct tcp_info of linux/tcp.h: eight bytes, then numbers of four bytes each. The sixth is the
        # backlog, where the socket listens.
        info = server.sockets[0].getsockopt(socket_module.IPPROTO_TCP, socket_module.TCP_INFO, 32)
        assert struct.unpack("=8x6I", info)[5] == min(expected, longest_backlog())


async def test_one_app_on_two_servers() -> None:
    app = sockrpc.App()
    app.method("echo")(lambda call: call.payload)
    async with serving(app) as here:
        app.method("late")(lambda call: b"late")
        async with serving(app) as there, here.connect() as one, there.connect() as two:
            assert await one.call("echo", "x") == await two.call("echo", "x") == b"x"
            # What is registered after a server has begun is seen by servers that begin later.
            assert await two.call("late") == b"late"
            assert here.server.statistics().calls_answered == 1
            assert there.server.statistics().calls_answered == 2


async def test_a_socket_that_is_bound_already() -> None:
    app = sockrpc.App()
    app.method("echo")(lambda call: call.payload)
    bound = socket_module.create_server(("127.0.0.1", 0))
    uri = f"ws://127.0.0.1:{bound.getsockname()[1]}/"
    async with sockrpc.serve(app, sock=bound), sockrpc.connect(uri) as client:
        assert await client.call("echo", "x") == b"x"


@POSIX
async def test_a_unix_socket_that_is_bound_already(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("uds"))
    app = sockrpc.App()
    app.method("echo")(lambda call: call.payload)
    bound = socket_module.socket(socket_module.AF_UNIX)
    bound.bind("here")
    async with sockrpc.serve(app, sock=bound), sockrpc.connect("ws://localhost/", uds="here") as client:
        assert await client.call("echo", "x") == b"x"


async def test_connections_are_the_open_ones() -> None:
    async with serving(sockrpc.App()) as here:
        assert here.server.connections == frozenset()
        async with here.connect(), await here.raw():
            await until(lambda: len(here.server.connections) == 2)
            connections = here.server.connections
            assert all(isinstance(each, sockrpc.Socket) for each in connections)
            # One in the middle of its opening request is none yet.
            _, writer = await asyncio.open_connection("127.0.0.1", here.port)
            writer.write(b"GET /socket HTTP/1.1\r\n")
            await writer.drain()
            assert here.server.connections == connections
            assert here.server.statistics().connections == 2
            writer.close()
            await writer.wait_closed()
        await until(lambda: not here.server.connections)
        assert here.server.statistics().connections == 0


async def test_statistics_of_what_is_going_on() -> None:
    work = Work()
    work.may_unwind.clear()
    app = work.app()
    may_end = asyncio.Event()

    @app.on("event")
    async def event(notification: sockrpc.Notification) -> None:
        await may_end.wait()

    async with serving(app, max_in_flight=3, max_notifications=2) as here, await here.raw() as raw:
        await raw.send(*(request(id, "work") for id in range(5)), *(notify("event") for _ in range(4)))
        await until(lambda: len(work.calls) == 3)
        await raw.send(reset(0))
        await raw.synchronize()
        statistics = here.server.statistics()
        assert statistics.connections == 1
        assert statistics.calls_in_flight == 4
        # The one that was reset still unwinds, and counts until it has ended.
        assert statistics.calls_running == 3
        # Notifications wait behind the calls that arrived before them.
        assert statistics.procedures_waiting == 6
        assert statistics.notifications_running == 0
        work.may_unwind.set()
        work.may_answer.set()
        for _ in range(4):
            assert (await raw.answer())[1] == b"answer"
        await until(lambda: here.server.statistics().notifications_running == 2)
        assert here.server.statistics().procedures_waiting == 2
        may_end.set()
        await until(lambda: here.server.statistics().notifications_started == 4)
        await until(lambda: here.server.statistics().notifications_running == 0)
        statistics = here.server.statistics()
        assert (statistics.calls_running, statistics.procedures_waiting) == (0, 0)


async def test_statistics_of_what_was_done(caplog: pytest.LogCaptureFixture) -> None:
    app = sockrpc.App()
    for_ever = asyncio.Event()
    may_end = threading.Event()

    @app.method("answer")
    def answer(call: sockrpc.Call) -> None: ...

    @app.method("fail")
    def fail(call: sockrpc.Call) -> None:
        raise LookupError

    @app.method("wait")
    async def wait(call: sockrpc.Call) -> None:
        await for_ever.wait()

    @app.method("timed", timeout=0.01)
    async def timed(call: sockrpc.Call) -> None:
        await for_ever.wait()

    @app.method("thread", thread=True)
    def thread(call: sockrpc.Call) -> None:
        may_end.wait()

    @app.on("good")
    def good(notification: sockrpc.Notification) -> None: ...

    @app.on("bad")
    def bad(notification: sockrpc.Notification) -> None:
        raise LookupError

    async with serving(app, stop_grace=0.01) as here:
        async with await here.raw() as raw:
            await raw.send(*(request(id, "answer") for id in range(1, 3)))
            assert [await raw.answer(), await raw.answer()] == [(1, b""), (2, b"")]
            await raw.send(request(3, "fail"), request(4, "fail"), request(5, "unknown"))
            await raw.send(request(6, "timed"), request(7, "wait"), reset(7), reset(7), reset(8))
            await raw.send(notify("good"), notify("good"), notify("bad"), notify("unknown"))
            await raw.synchronize()
            await until(lambda: here.server.statistics().calls_timed_out == 1)
            await raw.send(request(9, "wait"), request(10, "thread"))
            await raw.synchronize()
        await until(lambda: here.server.statistics().calls_lost == 2)
        # A thread that can not be interrupted runs on after the loss, and is counted.
        await until(lambda: here.server.statistics().calls_running == 1)
        may_end.set()
        await until(lambda: here.server.statistics().calls_running == 0)
        async with await here.raw() as raw:
            await raw.send(request(1, "wait"))
            await raw.synchronize()
            await until(lambda: here.server.statistics().calls_started == 10)
            server = here.server
            server.close()
            assert await raw.closing() == (1001, "server stopping")
    done = server.statistics()
    expected = {
        "connections": 0,
        "calls_in_flight": 0,
        "calls_running": 0,
        "procedures_waiting": 0,
        "notifications_running": 0,
        "calls_started": 10,
        "calls_answered": 2,
        "calls_failed": 3,
        "calls_reset": 1,
        "calls_lost": 2,
        "calls_timed_out": 1,
        "calls_stopped": 1,
        "notifications_started": 3,
        "notifications_failed": 1,
        "notifications_dropped": 1,
    }
    assert {name: getattr(done, name) for name in expected} == expected
    assert "'unknown'" in caplog.text


async def test_statistics_of_calls_that_end_while_they_wait() -> None:
    work = Work()
    async with serving(work.app(), max_in_flight=1) as here:
        async with await here.raw() as raw:
            await raw.send(*(request(id, "work") for id in range(4)), reset(1))
            await raw.synchronize()
            assert here.server.statistics().calls_reset == 1
        await until(lambda: here.server.statistics().calls_running == 0)
        statistics = here.server.statistics()
        assert (statistics.calls_started, statistics.calls_lost, statistics.calls_reset) == (1, 3, 1)
        assert statistics.procedures_waiting == 0


async def test_statistics_of_two_connections_are_added_up() -> None:
    work = Work()
    async with serving(work.app()) as here, await here.raw() as one, await here.raw() as two:
        await one.send(request(1, "work"), request(2, "work"))
        await two.send(request(1, "work"), frame(9, b"ping"))
        await until(lambda: len(work.calls) == 3)
        statistics = here.server.statistics()
        assert (statistics.connections, statistics.calls_in_flight, statistics.calls_running) == (2, 3, 3)
        work.may_answer.set()
        assert (await one.answer())[1] == b"answer"


MISTAKES: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    ((print, "127.0.0.1", 0), {}, "App or a coroutine function"),
    ((sockrpc.App(),), {}, "one of: host and port, uds, sock"),
    ((sockrpc.App(), "127.0.0.1"), {}, "one of: host and port, uds, sock"),
    ((sockrpc.App(), "127.0.0.1", 0), {"uds": "path"}, "one of: host and port, uds, sock"),
    ((sockrpc.App(), None, -1), {}, "-1"),
    ((sockrpc.App(), None, 65536), {}, "65536"),
    ((sockrpc.App(), None, 0), {"origins": "https://a.example"}, "origins"),
]


@pytest.mark.parametrize(("arguments", "options", "told"), MISTAKES, ids=[each[2] for each in MISTAKES])
def test_what_can_not_be_served_is_a_usage_error(
    arguments: tuple[Any, ...], options: dict[str, Any], told: str
) -> None:
    with pytest.raises(sockrpc.UsageError, match=told):
        sockrpc.serve(*arguments, **options)
