"""`sockrpc listen`: until Ctrl-C, the server's end or a reader that goes away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

import sockrpc
from tests.kit.command import POSIX, Command, Served, failure, run_command
from tests.kit.raw_server import Peer, RawServer
from tests.kit.support import BINARY, CLOSE, PATIENCE, frame

pytestmark = pytest.mark.newest


def notification(event: str, payload: bytes) -> bytes:
    """A WebSocket message that holds a Notify of the server's."""
    name = event.encode()
    return frame(BINARY, b"\x01" + bytes([len(name)]) + name + payload, masked=False)


@contextlib.asynccontextmanager
async def listening(*arguments: str) -> AsyncIterator[tuple[Command, Peer]]:
    """`sockrpc listen URI ARGUMENTS`, which listens already, and the raw end of its connection."""
    async with RawServer() as server:
        with Command("listen", server.uri, *arguments) as command:
            peer = await server.accept()
            # It subscribes in the step in which it is open, so whoever answers pings listens.
            await peer.synchronize()
            yield command, peer
            await peer.finish()


def watch(use: Callable[[Command, Peer], Awaitable[None]], *arguments: str) -> None:
    async def run() -> None:
        async with listening(*arguments) as (command, peer):
            await use(command, peer)

    asyncio.run(run())


def test_the_payloads_of_several_events_one_a_line() -> None:
    async def use(command: Command, peer: Peer) -> None:
        await peer.send(
            notification("one", b"first"),
            notification("other", b"not listened for"),
            notification("two", "zweite Z\u00e4hlung".encode()),
        )
        assert await asyncio.to_thread(command.line) == "first"
        assert await asyncio.to_thread(command.line) == "zweite Z\u00e4hlung"
        await peer.send(notification("one", b""))
        assert await asyncio.to_thread(command.line) == ""

    watch(use, "one", "two")


def test_an_event_that_is_named_twice_is_printed_once() -> None:
    async def use(command: Command, peer: Peer) -> None:
        await peer.send(notification("one", b"first"), notification("one", b"second"))
        await peer.synchronize()
        await peer.finish()
        assert await asyncio.to_thread(command.rest) == b"first\nsecond\n"

    watch(use, "one", "one")


def test_json_tells_the_event_too() -> None:
    async def use(command: Command, peer: Peer) -> None:
        for event, payload, expected in [
            ("two", b"text", {"event": "two", "payload": "text"}),
            ("one", b"two\nlines", {"event": "one", "payload": "two\nlines"}),
            ("one", b"\xff", {"event": "one", "payload_base64": "/w=="}),
        ]:
            await peer.send(notification(event, payload))
            assert json.loads(await asyncio.to_thread(command.line)) == expected

    watch(use, "one", "two", "--json")


@POSIX
def test_ctrl_c_closes_the_connection() -> None:
    async def use(command: Command, peer: Peer) -> None:
        command.interrupt()
        assert await peer.receive() == (CLOSE, (1000).to_bytes(2, "big"))
        await peer.finish()
        assert await asyncio.to_thread(command.end) == 130
        assert (command.rest(), command.log) == (b"", ["sockrpc: interrupted"])

    watch(use, "one", "two")


@pytest.mark.parametrize(
    ("end", "told"), [("close frame", "1001"), ("end of file", "1006"), ("broken line", "1006")]
)
def test_the_server_s_end_is_told_in_one_line_after_what_came_before(end: str, told: str) -> None:
    async def use(command: Command, peer: Peer) -> None:
        await peer.send(notification("one", b"last"))
        assert await asyncio.to_thread(command.line) == "last"
        if end == "close frame":
            await peer.close_politely(1001)
            await peer.finish()
        elif end == "end of file":
            await peer.finish()
        else:
            peer.reset_line()
        assert await asyncio.to_thread(command.end) == 1
        (complaint,) = command.log
        assert complaint.startswith(f"sockrpc: ConnectionLost: {told}")

    watch(use, "one", "two")


def test_a_refusal_is_told_in_one_line() -> None:
    with Served("demo") as demo:
        told = failure(run_command("listen", f"ws://127.0.0.1:{demo.port}/nothing", "message"), 4)
    assert told.startswith("sockrpc: HandshakeError: HTTP 404")


def test_a_listener_that_falls_behind_is_told_in_one_line() -> None:
    async def use(command: Command, peer: Peer) -> None:
        # In one read, so that nothing can be taken in between.
        await peer.send(notification("one", b"x") * 3)
        assert (await peer.receive())[0] == CLOSE
        await peer.finish()
        assert await asyncio.to_thread(command.rest) == b"x\nx\n"
        assert await asyncio.to_thread(command.end) == 1
        (complaint,) = command.log
        assert complaint.startswith("sockrpc: ListenerOverflow: ")

    watch(use, "one", "--max-listener-payloads", "2")


@POSIX
def test_a_reader_that_goes_away_ends_it_quietly() -> None:
    """As in `sockrpc listen ... | head -1`."""

    async def use(command: Command, peer: Peer) -> None:
        await peer.send(notification("one", b"first"))
        assert await asyncio.to_thread(command.line) == "first"
        assert command.process.stdout is not None
        command.process.stdout.close()
        await peer.send(notification("one", b"second"))
        assert await peer.receive() == (CLOSE, (1000).to_bytes(2, "big"))
        await peer.finish()
        assert await asyncio.to_thread(command.end) == 1
        assert command.log == []

    watch(use, "one")


def test_what_one_terminal_broadcasts_another_hears() -> None:
    """The demo from three terminals; and stopping it ends the listener."""
    with Served("demo") as demo, Command("listen", demo.uri, "message") as listener:
        heard: queue.Queue[str] = queue.Queue()

        def read() -> None:
            with contextlib.suppress(AssertionError):
                while True:
                    heard.put(listener.line())

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        # Nothing says from outside that it listens; the first thing that it hears does.
        asyncio.run(broadcast_until_heard(demo.uri, heard))
        assert run_command("notify", demo.uri, "broadcast", "the last").returncode == 0
        while (line := heard.get(timeout=PATIENCE)) != "the last":
            assert line == "again"
        demo.process.terminate()
        assert listener.end() == 1
        (complaint,) = listener.log
        assert complaint.startswith("sockrpc: ConnectionLost: 10")
        reader.join(PATIENCE)


async def broadcast_until_heard(uri: str, heard: queue.Queue[str]) -> None:
    async with sockrpc.connect(uri) as client:
        line: Any = None
        while line is None:
            await client.notify("broadcast", "again")
            with contextlib.suppress(queue.Empty):
                line = await asyncio.to_thread(heard.get, timeout=0.05)
        assert line == "again"
