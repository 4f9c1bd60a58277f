"""A line that is cut: at every byte of the opening handshake, of calls, and of the close handshake."""

from __future__ import annotations

import asyncio
import time

import pytest

import sockrpc
from tests.faults.lines import Line, faulty
from tests.faults.proxy import Direction, How, Side
from tests.kit.support import PATIENCE, started, until
from tests.kit.work import Work

pytestmark = pytest.mark.newest

CUTS: list[How] = ["fin", "rst"]
WAYS: list[Side] = ["server", "client"]


def direction(line: Line, towards: Side) -> Direction:
    return line.proxy.up if towards == "server" else line.proxy.down


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("towards", WAYS)
async def test_a_handshake_that_is_cut_at_any_byte(towards: Side, how: How) -> None:
    async with faulty(Work().app()) as line, asyncio.timeout(3 * PATIENCE):
        async with line.connect():
            whole = line.proxy.link.passed[towards]
        way = direction(line, towards)
        way.cut_how = how
        for size in range(whole):
            way.cut_after = size
            began = time.monotonic()
            with pytest.raises(sockrpc.ConnectionLost):
                await line.connect()
            assert time.monotonic() - began < PATIENCE / 2
        counts = await line.settled()
        assert counts.calls_started == 0


class Conversation:
    """Calls, a notification and a reset, in a fixed order of bytes."""

    def __init__(self, there: Work) -> None:
        self.there = there
        self.answers: list[bytes] = []

    async def run(self, client: sockrpc.Client) -> None:
        self.answers.append(await client.call("echo", b"first"))
        known = len(self.there.calls)
        working = await started(client.call("work", b"x" * 130))
        try:
            await until(lambda: len(self.there.calls) > known or working.done())
            await client.notify("nobody", b"listens")
            self.answers.append(await client.call("echo"))
        finally:
            working.cancel()
            await asyncio.wait([working])
            assert working.cancelled() or isinstance(working.exception(), sockrpc.ConnectionLost)
        self.answers.append(await client.call("echo", b"last"))

    async def run_to_its_end(self, connecting: sockrpc.connect) -> bool:
        """True if it was not interrupted; the connection is closed either way."""
        client = await connecting
        try:
            await self.run(client)
        except sockrpc.ConnectionLost:
            return False
        finally:
            await client.close()
            assert client.status().pending == []
        return True


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("towards", WAYS)
async def test_a_conversation_that_is_cut_at_any_byte(towards: Side, how: How) -> None:
    there = Work()
    expected = [b"first", b"", b"last"]
    async with faulty(there.app()) as line, asyncio.timeout(3 * PATIENCE):
        async with line.connect():
            opening = line.proxy.link.passed[towards]
        whole = Conversation(there)
        async with line.connect() as client:
            await whole.run(client)
            size = line.proxy.link.passed[towards]
        assert whole.answers == expected
        assert there.reasons == ["reset"]

        way = direction(line, towards)
        way.cut_how = how
        interrupted = 0
        for way.cut_after in range(opening, size):
            conversation = Conversation(there)
            try:
                interrupted += not await conversation.run_to_its_end(line.connect())
            except sockrpc.ConnectionLost:
                # Cut in the same moment in which it opened.
                assert way.cut_after == opening
                interrupted += 1
            assert conversation.answers == expected[: len(conversation.answers)]
            assert line.proxy.link.passed[towards] == way.cut_after
        assert interrupted == size - opening
        await line.settled()
    # Each work was cancelled once, whatever ended it, and has ended.
    assert there.ended == len(there.calls) > 0
    assert there.cancels == [1] * len(there.calls)
    assert set(there.reasons) == {"reset", "lost"}


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("towards", WAYS)
@pytest.mark.parametrize("closing", WAYS)
async def test_a_close_handshake_that_is_cut_at_any_byte(closing: Side, towards: Side, how: How) -> None:
    there = Work()
    reason = "a reason that takes some bytes"

    async def close(line: Line, client: sockrpc.Client) -> None:
        if closing == "client":
            await client.close(4000, reason)
        else:
            await line.here.only_socket().close(4000, reason)

    async with faulty(there.app()) as line, asyncio.timeout(3 * PATIENCE):
        async with line.connect() as client:
            await client.call("echo")
            opened = line.proxy.link.passed[towards]
            await close(line, client)
            await client.wait_closed()
            size = line.proxy.link.passed[towards]
        way = direction(line, towards)
        way.cut_how = how
        loop = asyncio.get_running_loop()
        for cut_after in range(opened + 1, size):
            way.cut_after = None
            client = await line.connect()
            await client.call("echo")
            call = await started(client.call("work"))
            known = len(there.calls)
            await until(lambda known=known, call=call: len(there.calls) > known or call.done())
            way.cut_after = line.proxy.link.passed[towards] + cut_after - opened
            began = loop.time()
            await close(line, client)
            await client.wait_closed()
            # Nobody waited for an answer that could not come.
            assert loop.time() - began < 1.0
            with pytest.raises((sockrpc.ConnectionLost, sockrpc.ConnectionClosed)):
                await call
        await line.settled()
    assert there.ended == len(there.calls) == size - opened - 1
    assert there.cancels == [1] * len(there.calls)
    assert set(there.reasons) == {"lost"}
