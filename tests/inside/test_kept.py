"""What sockets and loops keep: nothing for an idle connection, and nothing of one that is lost."""

from __future__ import annotations

import gc
from typing import Any

import sockrpc
from tests.kit.support import request, serving, until
from tests.kit.work import Work

SLOW: dict[str, Any] = {"stall_timeout": 60.0, "ping_interval": 60.0, "handshake_timeout": 60.0}


async def test_a_plain_connection_keeps_no_addresses_while_it_lasts() -> None:
    async with serving(sockrpc.App()) as here, await here.raw():
        socket = here.only_socket()
        assert socket.get_extra_info("sockname")
        assert socket._known is None
        address = socket.remote_address
        assert socket._known is address


async def test_whose_line_is_lost_is_not_kept_to_be_looked_at() -> None:
    there = Work()
    limits = {"max_in_flight": 1, "max_waiting_calls": 2}
    async with serving(there.app(), **limits, **SLOW) as here, await here.raw() as raw:
        # The loop's members, and those of them whose reading is paused.
        sets = [each for each in gc.get_referents(here.server._service.context) if isinstance(each, set)]
        await raw.send(*(request(n, "work") for n in range(10)))
        (connection,) = here.server._service.working
        await until(lambda: [connection in each for each in sets] == [True, True])
        connection.abort("gone")
        await until(lambda: not here.server._service.working)
        assert [connection in each for each in sets] == [False, False]
