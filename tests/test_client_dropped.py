"""A client that nobody refers to any more closes its connection and warns; what still uses it keeps it."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from typing import Any

import pytest

import sockrpc
from tests.kit.loops import LOOPS
from tests.kit.processes import run_program
from tests.kit.raw_server import Peer, RawServer, notification
from tests.kit.support import PATIENCE, started, until


async def alone(server: RawServer) -> tuple[sockrpc.Client, Peer]:
    """A client that nobody else refers to, as the turn of the loop does in which it was made."""
    made = await server.client()
    await asyncio.sleep(0)
    return made


async def test_a_client_that_nobody_refers_to_closes_with_a_warning() -> None:
    async with RawServer() as server:
        client, peer = await alone(server)
        with pytest.warns(ResourceWarning, match="a client was not closed"):
            del client
        assert await peer.closing() == (1000, "")
        assert await peer.nothing_more()


async def test_in_a_cycle_and_from_another_thread_as_well() -> None:
    async with RawServer() as server:
        client, peer = await alone(server)
        client.itself = client  # type: ignore[attr-defined]
        gc.collect()
        del client

        def collect() -> None:
            with pytest.warns(ResourceWarning, match="a client was not closed"):
                gc.collect()

        await asyncio.to_thread(collect)
        assert await peer.closing() == (1000, "")
        assert await peer.nothing_more()


def test_while_its_loop_is_closed_in_its_own_thread() -> None:
    class Closing(asyncio.SelectorEventLoop):
        def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> Any:
            # Its own thread has closed it since somebody asked whether it is closed.
            if threading.get_ident() != own:
                asked.append(self)
                raise RuntimeError("Event loop is closed")
            return super().call_soon_threadsafe(*args, **kwargs)

    async def use() -> None:
        async with RawServer() as server:
            client, peer = await alone(server)
            held = [client]
            del client

            def drop() -> None:
                # An exception that nobody can catch would be one more warning.
                with pytest.warns(ResourceWarning, match="a client was not closed") as warned:
                    held.clear()
                assert len(warned) == 1

            thread = threading.Thread(target=drop)
            thread.start()
            thread.join(PATIENCE)
            await peer.finish()

    own = threading.get_ident()
    asked: list[object] = []
    loop = Closing()
    loop.run_until_complete(use())
    loop.close()
    assert asked == [loop]


async def test_a_call_and_a_listener_refer_to_it() -> None:
    async with RawServer() as server:
        client, peer = await alone(server)
        payloads = client.on("event")
        call = await started(client.call("x"))
        del client
        gc.collect()
        id = await peer.request()
        await peer.answer(id, b"y")
        assert await call == b"y"
        del call
        gc.collect()
        await peer.send(notification("event", b"1"))
        assert await anext(payloads) == b"1"
        with pytest.warns(ResourceWarning, match="a client was not closed"):
            del payloads
        assert await peer.closing() == (1000, "")
        assert await peer.nothing_more()


async def test_a_call_in_flight_is_referred_to_by_its_connection() -> None:
    """The loop refers to tasks only weakly; one that waits for an answer is kept all the same."""
    answers: list[bytes] = []

    async def call(client: sockrpc.Client) -> None:
        answers.append(await client.call("x"))

    async with RawServer() as server:
        client, peer = await alone(server)
        for _ in range(3):
            await started(call(client))
        ids = [await peer.request() for _ in range(3)]
        del client
        gc.collect()
        for id, answer in zip((ids[1], ids[0], ids[2]), (b"1", b"2", b"3"), strict=True):
            await peer.answer(id, answer)
        with pytest.warns(ResourceWarning, match="a client was not closed"):
            await until(lambda: answers == [b"1", b"2", b"3"])
        assert await peer.closing() == (1000, "")
        assert await peer.nothing_more()


async def test_one_that_has_ended_goes_silently() -> None:
    async with RawServer() as server:
        client, peer = await alone(server)
        await peer.close_politely(1001)
        await peer.closing()
        await peer.finish()
        await client.wait_closed()
        other, peer = await alone(server)
        closing = asyncio.ensure_future(other.close())
        await peer.closing()
        closing.cancel()
        await asyncio.wait([closing])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            del client, other, closing
            gc.collect()
        await peer.finish()


async def test_what_was_written_before_still_goes_out() -> None:
    async with RawServer() as server:
        client, peer = await alone(server)
        await client.notify("event", b"x" * 1_000_000)
        with pytest.warns(ResourceWarning):
            del client
        _, message = await peer.receive()
        assert len(message) > 1_000_000
        assert await peer.closing() == (1000, "")
        assert await peer.nothing_more()


@pytest.mark.parametrize("kind", LOOPS)
def test_the_end_of_the_interpreter_is_silent(kind: str) -> None:
    program = f"""
        import asyncio
        import sockrpc
        from tests.kit.loops import new_event_loop
        async def start():
            global client
            client = await sockrpc.connect(f"ws://127.0.0.1:{{server.sockets[0].getsockname()[1]}}/")
        async def serve():
            global server
            server = await sockrpc.serve(sockrpc.App(), "127.0.0.1", 0)
        loop = new_event_loop("{kind}")
        loop.run_until_complete(serve())
        loop.run_until_complete(start())
    """
    done = run_program(program, "-W", "always::ResourceWarning")
    assert "a client was not closed" not in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 0
