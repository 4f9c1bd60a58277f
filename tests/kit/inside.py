"""The one place where helpers look into servers, connections and rooms; each function says what for.

Tests that have to see more stand in tests/inside/.
"""

from __future__ import annotations

from typing import Any

import sockrpc
from sockrpc.peer.ended_connection import EndedConnection

# Servers


def working(server: sockrpc.Server) -> set[Any]:
    """The connections that a server still works for: those in their handshake or unwinding, too."""
    return server._service.working


def attached(server: sockrpc.Server) -> int:
    """How many connections count for `max_connections`: those that are open or on their way to it."""
    return server._service.attached


def is_idle(server: sockrpc.Server) -> bool:
    """True if a server has no connection, and no task of its own."""
    service = server._service
    return not (service.attached or service.working or service.tasks)


def leftovers(server: sockrpc.Server) -> str:
    """What keeps a server from being idle."""
    service = server._service
    connections = [
        f"load {each.load}, in flight {each.in_flight}, ended {each.has_ended} {each.close_code}"
        f" {each.close_reason!r}, open {each.is_open}, transport {each.transport}"
        for each in service.working
    ]
    return f"attached {service.attached}, working {connections}, tasks {service.tasks}"


def has_stopped(server: sockrpc.Server) -> bool:
    return server._stopping is not None and server._stopping.done()


def is_shaking_hands(server: sockrpc.Server) -> bool:
    """True while a TLS handshake is under way, from which no connection has come yet."""
    return bool(server._openings._left)


def viewers(server: sockrpc.Server) -> int:
    """How many look at a server through its inspector."""
    return 0 if server._inspector is None else len(server._inspector.viewers)


# Ends: sockets, clients and connections


def _connection(end: Any) -> Any:
    return getattr(end, "_connection", end)


def reason_ended(end: Any) -> str:
    """Why its connection has ended, as its close frame says or would have said."""
    return str(_connection(end).close_reason)


def has_ended(end: Any) -> bool:
    """True once an end can carry nothing more."""
    return bool(_connection(end).has_ended)


def has_let_go(socket: sockrpc.Socket) -> bool:
    """True once a socket has released its connection, of which nothing runs or waits any more."""
    return isinstance(socket._connection, EndedConnection)


def transport_of(end: Any) -> Any:
    """The transport; None once it is gone."""
    return _connection(end).transport


def unsent_bytes(end: Any) -> int:
    """How many bytes its transport holds."""
    return int(transport_of(end).get_write_buffer_size())


def is_writable(end: Any) -> bool:
    """False while output is blocked."""
    return bool(_connection(end).is_writable())


def begin_close(end: Any, code: int, reason: str) -> None:
    """Begin to close, as `close` does, and wait for nothing."""
    _connection(end).close(code, reason)


def close_as_slow(socket: sockrpc.Socket) -> None:
    """Close as if the peer did not read what it is sent."""
    _connection(socket).close_slow()


def abort_connection(end: Any, reason: str = "gone") -> None:
    """Lose the connection at this very moment."""
    _connection(end).abort(reason)


# Listeners, sockets and rooms


def payloads_waiting(listener: Any) -> list[bytes]:
    """Take the payloads that wait in a client's listener, whose connection may be lost."""
    payloads = []
    while (payload := listener._subscription.take()) is not None:
        payloads.append(payload)
    return payloads


def is_socket_form(socket: sockrpc.Socket) -> bool:
    """True if the app is a coroutine function of one socket."""
    return socket._hooks.handle_socket is not None


def members(room: sockrpc.Room) -> list[sockrpc.Socket]:
    return list(room._members)


# The two ends of a line in memory


def begin_drain(end: Any) -> None:
    """Let an end take leave: it says Goaway, and closes when nothing is open."""
    end.drain()


def use_lowest_ids(end: Any, side: int) -> None:
    """Make the next call use the lowest free id of its side, 0 for a client, 1 for a server."""
    end.set_last_id(0xFFFF_FFFF if side else 0x7FFF_FFFF)


def held_bytes(stream: Any) -> int:
    """The cost of the items of a resuming stream that have come and were not taken (PROTOCOL.md)."""
    held: int = stream._stream._inbox.held_bytes
    return held
