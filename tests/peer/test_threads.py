"""Several threads at once, each with an event loop, a server and clients of its own.

On a free-threaded Python nothing keeps them apart; on any other they take turns, here as often as it goes.
What is shared by all: the app and its table of names, the table of loops, masks, counters.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import sockrpc
from sockrpc.peer.table import live_entries
from sockrpc.testing.wire import serialize
from sockrpc.websocket.loop import context_of_running_loop, live_contexts
from tests.kit.loops import LOOPS, new_event_loop
from tests.kit.support import serving, until

THREADS = 4
ROUNDS = 3
CALLS = 100
PATIENCE_SECONDS = 60.0


@pytest.fixture(autouse=True)
def threads_take_turns_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(work: Callable[[int], Any]) -> list[Any]:
    """What `work` returned in each of several threads, which began at the same moment."""
    barrier = threading.Barrier(THREADS, timeout=PATIENCE_SECONDS)
    results: list[Any] = [None] * THREADS
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            barrier.wait()
            results[number] = work(number)
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    # Daemonic: one that hangs must not keep pytest from telling.
    threads = [threading.Thread(target=run, args=(each,), daemon=True) for each in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert not errors, errors
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    return results


def on_a_loop(kind: str, coroutine: Callable[[], Any]) -> Any:
    """What a coroutine function returns on a new loop, whose handler of exceptions must hear nothing."""
    loop = new_event_loop(kind)
    unexpected: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: unexpected.append(context))
    try:
        result = loop.run_until_complete(coroutine())
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
    assert not unexpected, unexpected
    return result


def make_app() -> sockrpc.App:
    app = sockrpc.App()

    @app.method
    def echo(call: sockrpc.Call) -> bytes:
        return call.payload

    @app.method
    async def double(call: sockrpc.Call) -> bytes:
        await asyncio.sleep(0)
        return call.payload * 2

    @app.method
    async def forever(call: sockrpc.Call) -> None:
        call.socket.state.aborted = []
        call.on_abort(call.socket.state.aborted.append, call.id)
        await asyncio.Event().wait()

    @app.method(thread=True)
    def in_a_thread(call: sockrpc.Call) -> str:
        return f"{call.text} {call.is_reset}"

    @app.on("join")
    def join(notification: sockrpc.Notification) -> None:
        room = ROOMS.setdefault(asyncio.get_running_loop(), sockrpc.Room())
        notification.socket.state.room = room
        room.join(notification.socket)

    @app.on("tell")
    def tell(notification: sockrpc.Notification) -> None:
        notification.socket.state.room.broadcast("told", notification.payload)

    return app


ROOMS: dict[asyncio.AbstractEventLoop, sockrpc.Room] = {}


async def use(client: sockrpc.Client, mark: bytes, served: Any) -> None:
    """Every kind of traffic there is, every answer looked at."""
    told = client.on("told")
    await client.notify("join")
    answers = await asyncio.gather(
        *(client.call("echo", b"%b %d" % (mark, each)) for each in range(CALLS)),
        *(client.call("double", b"%b %d" % (mark, each)) for each in range(CALLS)),
    )
    assert answers[:CALLS] == [b"%b %d" % (mark, each) for each in range(CALLS)]
    assert answers[CALLS:] == [b"%b %d" % (mark, each) * 2 for each in range(CALLS)]
    large = mark * 20_000
    assert await client.call("echo", large) == large
    assert await client.call("in_a_thread", mark) == mark + b" False"
    before = served.server.statistics().calls_reset
    work = [asyncio.ensure_future(client.call("forever")) for _ in range(10)]
    await until(lambda: served.server.statistics().calls_in_flight == 10)
    for each in work:
        each.cancel()
    await asyncio.gather(*work, return_exceptions=True)
    await until(lambda: served.server.statistics().calls_in_flight == 0)
    assert served.server.statistics().calls_reset == before + 10
    await client.notify("tell", mark)
    assert await anext(told) == mark
    await told.aclose()


@pytest.mark.parametrize("kind", LOOPS)
def test_threads_with_a_loop_each_serve_one_app_and_do_not_disturb_each_other(kind: str) -> None:
    app = make_app()

    async def serve_and_call(mark: bytes) -> int:
        async with serving(app) as served, served.connect() as client:
            await use(client, mark, served)
            await use(client, mark + b"again", served)
            # What is in flight when its connection is lost is aborted.
            lost = asyncio.ensure_future(client.call("forever"))
            await until(lambda: served.server.statistics().calls_in_flight == 1)
            await served.only_socket().close(1011, "enough")
            with pytest.raises(sockrpc.ConnectionLost):
                await lost
            await until(lambda: served.server.statistics().calls_in_flight == 0)
            ROOMS.pop(asyncio.get_running_loop())
            return served.server.statistics().calls_lost

    def work(number: int) -> list[int]:
        # A new loop each time: they come and go in the table that all threads have in common.
        return [on_a_loop(kind, lambda: serve_and_call(b"thread %d" % number)) for _ in range(ROUNDS)]

    assert in_threads(work) == [[1] * ROUNDS] * THREADS
    gc.collect()
    assert live_contexts() == 0
    assert live_entries() == 0


@pytest.mark.parametrize("kind", LOOPS)
def test_clients_in_several_threads_call_one_server_in_another(kind: str) -> None:
    ports: list[int] = []
    is_listening, is_done = threading.Event(), threading.Event()

    async def serve() -> int:
        async with serving(make_app(), blocked_warning=None) as served:
            ports.append(served.port)
            is_listening.set()
            await asyncio.get_running_loop().run_in_executor(None, is_done.wait)
            return served.server.statistics().calls_answered

    async def call(number: int) -> list[bytes]:
        async with sockrpc.connect(f"ws://127.0.0.1:{ports[0]}/socket") as client:
            payloads = [b"%d %d" % (number, each) for each in range(CALLS)]
            answers = await asyncio.gather(*(client.call("echo", each) for each in payloads))
            assert answers == payloads
            return answers

    served: list[int] = []
    server = threading.Thread(target=lambda: served.append(on_a_loop(kind, serve)), daemon=True)
    server.start()
    try:
        assert is_listening.wait(PATIENCE_SECONDS)
        answered = in_threads(lambda number: on_a_loop(kind, lambda: call(number)))
    finally:
        is_done.set()
        server.join(PATIENCE_SECONDS)
    # No payload has come twice, or to another.
    assert len({answer for answers in answered for answer in answers}) == THREADS * CALLS
    assert served == [THREADS * CALLS]


@pytest.mark.skipif(sys.gettrace() is not None, reason="a tracer lets other threads in between any two lines")
def test_no_two_threads_use_the_same_masks() -> None:
    # One of 2**32 each, so a pair that is equal by chance is rare; a pool that two threads take from at
    # once gives hundreds.
    masks = in_threads(lambda _: [serialize("binary", b"", masked=True)[2:6] for _ in range(5_000)])
    seen = Counter(mask for each in masks for mask in each)
    assert sum(count - 1 for count in seen.values()) <= 3


def test_loops_that_come_and_go_in_all_threads_find_their_own_context() -> None:
    async def own() -> bool:
        context = context_of_running_loop()
        context.acquire()
        await asyncio.sleep(0)
        return context_of_running_loop() is context and context.loop is asyncio.get_running_loop()

    def work(number: int) -> list[bool]:
        # Some at a time, and closed over their contexts, which those that come later have to clear away.
        loops: deque[asyncio.AbstractEventLoop] = deque()
        found = []
        for _ in range(50):
            loops.append(asyncio.new_event_loop())
            found.append(loops[-1].run_until_complete(own()))
            if len(loops) > 10:
                loops.popleft().close()
        for loop in loops:
            loop.close()
        return found

    assert in_threads(work) == [[True] * 50] * THREADS
    assert live_contexts() == 0


def test_a_loop_may_come_while_another_thread_looks_for_closed_ones() -> None:
    async def stay() -> None:
        context_of_running_loop().acquire()

    async def go() -> None:
        context_of_running_loop().release()

    came: list[asyncio.AbstractEventLoop] = []

    def come() -> None:
        came.append(asyncio.new_event_loop())
        came[0].run_until_complete(stay())

    class Slow(asyncio.SelectorEventLoop):
        """Asked whether it is closed, it takes so long that another thread gets its turn."""

        is_asked = False

        def is_closed(self) -> bool:
            if self.is_asked and not came:
                self.is_asked = False
                thread = threading.Thread(target=come)
                thread.start()
                thread.join(PATIENCE_SECONDS)
            return super().is_closed()

    slow, third = Slow(), asyncio.new_event_loop()
    slow.run_until_complete(stay())
    slow.is_asked = True
    third.run_until_complete(stay())
    for loop in (slow, third, *came):
        loop.run_until_complete(go())
        loop.close()
    assert len(came) == 1
    assert live_contexts() == 0
