"""Ids of calls, where they wrap around: nobody makes four thousand million calls for it."""

from __future__ import annotations

import asyncio

import pytest

from tests.kit.raw_server import connected, response
from tests.kit.support import started


@pytest.mark.row(3)
async def test_ids_count_up_from_one_and_wrap_past_those_in_flight() -> None:
    """An id in flight is never used again, and one that was just reset is not for long."""
    async with connected() as (client, peer):
        first = await started(client.call("x"))
        assert await peer.request() == 1
        client._connection.set_last_id(2**32 - 2)
        waiting: list[asyncio.Task[bytes]] = []
        for id in (2**32 - 1, 0, 2):
            waiting.append(await started(client.call("x")))
            assert await peer.request() == id
        client._connection.set_last_id(2**32 - 3)
        waiting.append(await started(client.call("x")))
        assert await peer.request() == 2**32 - 2
        waiting.append(await started(client.call("x")))
        assert await peer.request() == 3
        assert client.status().pending == [0, 1, 2, 3, 2**32 - 2, 2**32 - 1]
        waiting[1].cancel()
        assert await peer.reset() == 0
        waiting.append(await started(client.call("x")))
        assert await peer.request() == 4
        await peer.send(*(response(id, b"%d" % id) for id in (1, 2**32 - 1, 2, 2**32 - 2, 3, 4)))
        answers = [await task for task in (first, waiting[0], *waiting[2:])]
        assert answers == [b"1", b"4294967295", b"2", b"4294967294", b"3", b"4"]
