"""What a server makes, used twice, in another thread or on another loop: it works, or is a UsageError."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest

import sockrpc
from tests.kit.command import PATIENCE
from tests.kit.loops import LOOPS, new_event_loop
from tests.kit.processes import ROOT
from tests.kit.support import V0, Serving, serving, started, until


def make_app() -> sockrpc.App:
    app = sockrpc.App()
    app.method("echo")(lambda call: call.payload)

    @app.method
    async def for_ever(call: sockrpc.Call) -> None:
        await asyncio.Event().wait()

    return app


def in_thread(work: Callable[[], Any]) -> Awaitable[Any]:
    """What `work` returns in a thread that has no event loop."""
    return asyncio.to_thread(work)


async def elsewhere(coroutine: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """What a coroutine returns on another event loop, in another thread."""
    return await asyncio.to_thread(lambda: asyncio.run(coroutine()))


def port_of(server: sockrpc.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


def is_listened_on(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# Twice


async def test_a_serve_object_in_use_is_not_entered_again() -> None:
    entry = sockrpc.serve(make_app(), "127.0.0.1", 0)
    async with entry as server:
        with pytest.raises(sockrpc.UsageError, match="in use by another `async with`"):
            await entry.__aenter__()
        port = port_of(server)
        async with sockrpc.connect(f"ws://127.0.0.1:{port}/") as client:
            assert await client.call("echo", "x") == b"x"
    assert not is_listened_on(port)
    # And again, as that block has ended.
    async with entry as server:
        assert is_listened_on(port_of(server))


async def test_two_tasks_that_enter_at_once_are_told_so_before_either_listens() -> None:
    app = make_app()
    begun: list[None] = []
    may_start = asyncio.Event()

    @app.on_start
    async def start() -> None:
        begun.append(None)
        await may_start.wait()

    entry = sockrpc.serve(app, "127.0.0.1", 0)

    async def serve() -> None:
        async with entry:
            pass

    first = await started(serve())
    await until(lambda: begun)
    with pytest.raises(sockrpc.UsageError, match="in use"):
        await serve()
    may_start.set()
    await first
    assert len(begun) == 1


async def test_an_entry_that_failed_may_be_repeated() -> None:
    async with serving(make_app()) as taken:
        entry = sockrpc.serve(make_app(), "127.0.0.1", taken.port)
        with pytest.raises(OSError, match="in use"):
            await entry.__aenter__()
    async with entry as server:
        assert port_of(server) == taken.port


async def test_a_serve_object_that_is_awaited_twice_makes_two_servers() -> None:
    entry = sockrpc.serve(make_app(), "127.0.0.1", 0)
    one, two = await entry, await entry
    async with entry as three:
        ports = [port_of(each) for each in (one, two, three)]
        assert len(set(ports)) == 3
    assert [is_listened_on(port) for port in ports] == [True, True, False]
    for server in (one, two):
        server.close()
        await server.wait_closed()
    assert not any(map(is_listened_on, ports))


async def test_sockets_are_of_one_server_only() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        entry = sockrpc.serve(make_app(), sock=listening)
        async with entry:
            with pytest.raises(sockrpc.UsageError, match="served or closed before"):
                await entry
        with pytest.raises(sockrpc.UsageError, match="served or closed before"):
            await entry
        with pytest.raises(sockrpc.UsageError, match="served or closed before"):
            await sockrpc.serve(make_app(), sock=listening)


# Elsewhere


@pytest.mark.parametrize("stop", ["close", "hurry"])
@pytest.mark.parametrize("where", [in_thread, elsewhere])
async def test_a_server_may_be_stopped_from_anywhere(stop: str, where: Callable[..., Any]) -> None:
    async with serving(make_app(), stop_grace=PATIENCE, abort_grace=PATIENCE) as here:
        client = await here.connect(protocols=V0)
        call = await started(client.call("for_ever"))
        await until(lambda: here.server.statistics().calls_in_flight == 1)

        async def coroutine() -> None:
            getattr(here.server, stop)()

        await where(coroutine if where is elsewhere else getattr(here.server, stop))
        async with asyncio.timeout(PATIENCE):
            await here.server.wait_stopping()
        if stop == "close":
            assert not call.done()
            here.server.hurry()
        with pytest.raises(sockrpc.ConnectionLost):
            await call
        await client.close()


@pytest.mark.parametrize("kind", LOOPS)
def test_a_server_may_be_closed_between_two_runs_of_its_loop_and_after_its_end(kind: str) -> None:
    loop = new_event_loop(kind)

    async def start() -> sockrpc.Server:
        return await sockrpc.serve(make_app(), "127.0.0.1", 0)

    server = loop.run_until_complete(start())
    server.close()
    loop.run_until_complete(server.wait_closed())
    loop.close()
    server.close()
    server.hurry()


@contextlib.asynccontextmanager
async def with_client(app: sockrpc.App, **options: Any) -> AsyncIterator[tuple[Serving, sockrpc.Client]]:
    async with serving(app, **options) as here, here.connect() as client:
        await client.call("echo")
        yield here, client


async def test_what_is_awaited_on_another_loop_is_a_usage_error_and_nothing_happens() -> None:
    async with with_client(make_app()) as (here, client):
        only = here.only_socket()
        coroutines: list[Callable[[], Coroutine[Any, Any, None]]] = [
            here.server.wait_stopping,
            here.server.wait_closed,
            here.server.serve_forever,
            lambda: here.server.__aexit__(None, None, None),
            only.close,
        ]
        for each in coroutines:
            with pytest.raises(sockrpc.UsageError, match="belongs to another event loop"):
                await elsewhere(each)
        assert await client.call("echo", "still open") == b"still open"
        assert here.server.sockets


async def test_iterating_over_a_socket_on_another_loop_is_a_usage_error() -> None:
    told: list[BaseException] = []

    async def handle(socket: sockrpc.Socket) -> None:
        async def iterate() -> None:
            async for _ in socket:
                raise AssertionError

        try:
            await elsewhere(iterate)
        except sockrpc.UsageError as error:
            told.append(error)

    async with serving(handle) as here, here.connect() as client:
        await client.wait_closed()
    assert "belongs to another event loop" in str(told)


async def test_a_server_may_be_looked_at_in_a_thread_while_connections_come_and_go() -> None:
    async with serving(make_app()) as here:
        stop = threading.Event()

        def look() -> int:
            looks = 0
            while not stop.is_set() or not looks:
                assert here.server.statistics().connections >= 0
                assert len(here.server.connections) >= 0
                assert here.server.sockets
                looks += 1
            return looks

        # The threads take turns much more often than usual: more of what they do meets, in less time.
        interval = sys.getswitchinterval()
        sys.setswitchinterval(interval / 100)
        try:
            looking = await started(asyncio.to_thread(look))
            for _ in range(20):
                clients = [await here.connect() for _ in range(5)]
                for client in clients:
                    await client.close()
            stop.set()
            assert await looking
        finally:
            stop.set()
            sys.setswitchinterval(interval)


# Rooms


async def test_a_thread_may_join_broadcast_and_leave_and_all_of_it_stays_in_order() -> None:
    app = make_app()
    room = sockrpc.Room()

    @app.method("tell", thread=True)
    def tell(call: sockrpc.Call) -> None:
        room.broadcast("told", "before")
        room.join(call.socket)
        for number in range(100):
            room.broadcast("told", f"{number}")
        room.broadcast("told", "to the others", exclude=call.socket)
        room.leave(call.socket)
        room.broadcast("told", "after")

    async with serving(app) as here, here.connect() as client:
        told = client.on("told")
        await client.call("tell")
        assert not len(room)
        room.join(here.only_socket())
        assert await asyncio.to_thread(room.broadcast, "told", "last") == 1
        assert await asyncio.to_thread(room.broadcast, "told", "", exclude=here.only_socket()) == 0
        heard = [(await anext(told)).decode() for _ in range(101)]
        assert heard == [*map(str, range(100)), "last"]


async def test_a_thread_that_is_faster_than_the_loop_is_told_so_by_the_count() -> None:
    app = make_app()
    room = sockrpc.Room()
    app.on_connect(room.join)
    counts: list[int] = []
    payload = bytes(1024 * 1024)

    @app.method
    def block(call: sockrpc.Call) -> None:
        # Inline: the loop takes nothing meanwhile.
        thread = threading.Thread(
            target=lambda: counts.extend(room.broadcast("m", payload) for _ in range(20))
        )
        thread.start()
        thread.join()

    options = {"output_max_bytes": 64 * 1024 * 1024}
    async with serving(app, **options) as here, here.connect(max_listener_bytes=64 * 1024 * 1024) as client:
        received = client.on("m")
        await client.call("block")
        assert counts == [1] * 16 + [0] * 4
        for _ in range(16):
            assert len(await anext(received)) == len(payload)
        assert await asyncio.to_thread(room.broadcast, "m") == 1
        assert await anext(received) == b""


@pytest.mark.parametrize("kind", LOOPS)
def test_a_room_is_for_the_sockets_of_one_loop_at_a_time(kind: str) -> None:
    room = sockrpc.Room()
    app = make_app()
    app.on_connect(room.join)
    log: list[Any] = []

    async def serve_here() -> None:
        async with with_client(app) as (_, client):
            events = client.on("m")
            assert room.broadcast("m", "x") == 1
            assert await anext(events) == b"x"

            async def elsewhere_too() -> None:
                async with serving(make_app()) as other, other.connect() as there:
                    await there.call("echo")
                    with pytest.raises(sockrpc.UsageError, match="of one event loop"):
                        room.join(other.only_socket())
                    log.append(len(room))

            await elsewhere(elsewhere_too)

    # The second time on a new loop: the first has left nothing behind.
    for _ in range(2):
        loop = new_event_loop(kind)
        loop.run_until_complete(serve_here())
        loop.close()
    assert log == [1, 1]


CLOSED = """
import asyncio, os, threading
import sockrpc
from tests.kit.loops import new_event_loop

app, sockets, kept = sockrpc.App(), [], []

@app.method
async def work(call):
    sockets.append(call.socket)
    await asyncio.Event().wait()

async def main():
    kept.append(await sockrpc.serve(app, "127.0.0.1", 0))
    client = await sockrpc.connect(f"ws://127.0.0.1:{kept[0].sockets[0].getsockname()[1]}/")
    kept.append([client, *(asyncio.ensure_future(client.call("work")) for _ in range(3))])
    while len(sockets) < 3:
        await asyncio.sleep(0)

loop = new_event_loop("LOOP")
loop.run_until_complete(main())
loop.close()

def notify():
    print(sockets[0].notify_nowait("event"), flush=True)

notify()
thread = threading.Thread(target=notify)
thread.start()
thread.join()
os._exit(0)
"""


@pytest.mark.parametrize("kind", LOOPS)
def test_of_a_loop_that_was_closed_over_its_connections_nothing_is_sent(kind: str) -> None:
    """It is no error, as after any other end; and nobody hears that it was sent."""
    program = [sys.executable, "-W", "ignore", "-c", CLOSED.replace("LOOP", kind)]
    ran = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ran.stdout.split() == ["False", "False"], ran.stderr
