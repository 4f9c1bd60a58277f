"""A server behind a faulty line, and what must hold once every line of it is gone."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import sockrpc
from tests.faults.proxy import Proxy
from tests.kit.inside import attached, working
from tests.kit.support import Serving, serving, until

# The order in which the body of a test meets them: neither `connect` nor a call says anything else.
LOST = (sockrpc.ConnectionLost, ConnectionError)


class Line:
    """A running server, and the proxy that leads to it."""

    def __init__(self, here: Serving, proxy: Proxy) -> None:
        self.here = here
        self.proxy = proxy

    def connect(self, **options: Any) -> sockrpc.connect:
        options.setdefault("close_timeout", 2.0)
        return sockrpc.connect(self.proxy.uri, **options)

    @property
    def counts(self) -> sockrpc.Statistics:
        return self.here.server.statistics()

    async def settled(self) -> sockrpc.Statistics:
        """Wait until the server has noticed every end, and all work is over; hold it to its sums."""
        await until(lambda: attached(self.here.server) == 0)
        await until(lambda: not working(self.here.server))
        return check_sums(self.counts)


def check_sums(counts: sockrpc.Statistics) -> sockrpc.Statistics:
    """With no connection left, nothing is in flight, and each call that started has ended in one way."""
    assert counts.connections == counts.calls_in_flight == counts.calls_running == 0, counts
    assert counts.procedures_waiting == counts.notifications_running == 0, counts
    aborted = counts.calls_reset + counts.calls_lost + counts.calls_timed_out + counts.calls_stopped
    # Those that were aborted while they waited had not started.
    assert counts.calls_started <= counts.calls_answered + counts.calls_failed + aborted, counts
    assert counts.calls_answered + counts.calls_failed <= counts.calls_started, counts
    return counts


@contextlib.asynccontextmanager
async def faulty(app: Any, **options: Any) -> AsyncIterator[Line]:
    """Serve an app behind a proxy; limits of the server are keywords."""
    async with serving(app, **options) as here, Proxy(here.port) as proxy:
        yield Line(here, proxy)
