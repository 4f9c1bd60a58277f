"""The other end of a connection, as a handler sees it that serves one of its calls."""

from __future__ import annotations

from typing import Any

from sockrpc.calls import Calls

__all__ = ["Remote"]


class Remote(Calls):
    """The peer that waits for a call, `Call.peer`.

    Calls that are made here while that call runs are nested: they never queue behind others, or two peers
    that call each other from their handlers could wait for each other for ever. At the peer's limit they fail
    at once with RESOURCE_EXHAUSTED, not started.
    """

    __slots__ = ("_connection", "_within")

    def __init__(self, connection: Any, within: Any) -> None:
        self._connection = connection
        self._within = within
