"""A client belongs to one event loop, one thread and one process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import sockrpc
from tests.kit.loops import LOOPS, new_event_loop
from tests.kit.processes import run_program
from tests.kit.raw_server import connected, notification
from tests.kit.support import started
from tests.kit.work import Work

Use = Callable[[sockrpc.Client], Coroutine[Any, Any, Any]]


async def subscribe(client: sockrpc.Client) -> None:
    client.on("event")


USES: dict[str, Use] = {
    "call": lambda client: client.call("echo", b"x"),
    "call with a timeout": lambda client: client.call("echo", b"x", timeout=1),
    "notify": lambda client: client.notify("event", b"x"),
    "on": subscribe,
    "close": lambda client: client.close(),
    "wait_closed": lambda client: client.wait_closed(),
    "aexit": lambda client: client.__aexit__(None, None, None),
}
every_use = pytest.mark.parametrize("use", USES.values(), ids=list(USES))


def refusal(use: Use, client: sockrpc.Client, loop: asyncio.AbstractEventLoop) -> str:
    """What a client says that is used on another loop than its own."""
    try:
        loop.run_until_complete(use(client))
    except sockrpc.UsageError as error:
        return str(error)
    finally:
        loop.close()
    return "nothing"


@every_use
@pytest.mark.parametrize("other", LOOPS)
async def test_another_loop_in_another_thread_is_refused_before_anything_is_sent(
    use: Use, other: str
) -> None:
    async with connected() as (client, peer):
        said = await asyncio.to_thread(refusal, use, client, new_event_loop(other))
        assert said.startswith("this client belongs to another event loop")
        assert client.status() == ([], [])
        await peer.synchronize()


async def test_waiting_for_a_payload_is_refused_elsewhere_and_what_is_there_is_given() -> None:
    async with connected() as (client, peer):
        payloads = client.on("event")
        await peer.send(notification("event", b"1"))
        # Its answer comes after the notification.
        call = await started(client.call("x"))
        await peer.answer(await peer.request())
        await call
        taken: list[bytes] = []

        async def take(_: sockrpc.Client) -> None:
            taken.append(await anext(payloads))
            await anext(payloads)

        said = await asyncio.to_thread(refusal, take, client, new_event_loop("asyncio"))
        assert taken == [b"1"]
        assert said.startswith("this client belongs to another event loop")
        await peer.send(notification("event", b"2"))
        assert await anext(payloads) == b"2"


@pytest.mark.parametrize("use", ["call", "notify", "on"])
async def test_one_that_has_ended_says_so_wherever_it_is_used(use: str) -> None:
    async with connected() as (client, peer):
        await peer.finish()
        await client.wait_closed()
        other = new_event_loop("asyncio")
        with pytest.raises(sockrpc.ConnectionLost):
            await asyncio.to_thread(refusal, USES[use], client, other)


@every_use
@pytest.mark.parametrize("kind", LOOPS)
def test_another_loop_of_the_same_thread_is_refused_and_its_own_goes_on(use: Use, kind: str) -> None:
    loop = new_event_loop(kind)

    async def start() -> tuple[Any, sockrpc.Client]:
        server = await sockrpc.serve(Work().app(), "127.0.0.1", 0)
        return server, await sockrpc.connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/")

    async def stop() -> None:
        await client.close()
        server.close()
        await server.wait_closed()

    server, client = loop.run_until_complete(start())
    for other in LOOPS:
        assert "another event loop" in refusal(use, client, new_event_loop(other))
    assert loop.run_until_complete(client.call("echo", b"x")) == b"x"
    # No loop runs, so nothing happens at the same time.
    payloads = client.on("event")
    assert client.status() == ([], ["event"])
    loop.run_until_complete(payloads.aclose())
    loop.run_until_complete(stop())
    loop.close()


@pytest.mark.parametrize("kind", LOOPS)
def test_a_client_whose_loop_is_closed_is_refused(kind: str) -> None:
    program = f"""
        import asyncio, gc, warnings
        import sockrpc
        from tests.kit.loops import new_event_loop
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", "a client was not closed")

        async def start():
            server = await sockrpc.serve(sockrpc.App(), "127.0.0.1", 0)
            return await sockrpc.connect(f"ws://127.0.0.1:{{server.sockets[0].getsockname()[1]}}/")

        async def subscribe(client):
            client.on("x")

        async def use(client):
            for coroutine in (client.call("x"), client.notify("x"), client.close(), subscribe(client)):
                try:
                    await coroutine
                except sockrpc.UsageError as error:
                    assert "another event loop" in str(error)
                    print("refused")

        loop = new_event_loop("{kind}")
        client = loop.run_until_complete(start())
        loop.close()
        asyncio.run(use(client))
        del client
        gc.collect()
        print("done")
    """
    done = run_program(program)
    assert (done.stdout, done.returncode) == ("refused\n" * 4 + "done\n", 0), done.stderr
    assert done.stderr.count("ResourceWarning: a client was not closed") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.parametrize("kind", LOOPS)
@pytest.mark.parametrize("running", [False, True], ids=["beside the loop", "in the loop"])
def test_a_client_from_before_a_fork_is_refused_and_left_alone(kind: str, running: bool) -> None:
    program = f"""
        import asyncio, gc, os, sys, warnings
        import sockrpc
        from tests.kit.loops import new_event_loop
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "This process", DeprecationWarning)
        served = []
        app = sockrpc.App()
        @app.method("echo")
        def echo(call):
            served.append(call.payload)
            return call.payload

        def child():
            global client
            async def use():
                for coroutine in (client.call("echo", b"child"), client.notify("x"), client.close()):
                    try:
                        await coroutine
                    except sockrpc.UsageError as error:
                        assert "fork" in str(error), error
                    else:
                        os._exit(2)
            try:
                try:
                    other = loop if not {running} else new_event_loop("asyncio")
                    other.run_until_complete(use())
                    client = None
                    gc.collect()
                except BaseException:
                    import traceback; traceback.print_exc()
                    os._exit(1)
            finally:
                os._exit(0)

        async def start():
            global server, client
            server = await sockrpc.serve(app, "127.0.0.1", 0)
            client = await sockrpc.connect(f"ws://127.0.0.1:{{server.sockets[0].getsockname()[1]}}/")
            if {running}:
                fork()

        def fork():
            pid = os.fork()
            if pid == 0:
                child()
            status = os.waitpid(pid, 0)[1]
            assert status == 0, status

        async def go_on():
            assert await client.call("echo", b"parent") == b"parent"
            assert served == [b"parent"]
            await client.close()
            server.close()
            await server.wait_closed()

        loop = new_event_loop("{kind}")
        loop.run_until_complete(start())
        if not {running}:
            fork()
        loop.run_until_complete(go_on())
        loop.close()
        print("done")
    """
    done = run_program(program)
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)
