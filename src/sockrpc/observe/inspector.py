"""The inspector of calls in flight, which sends snapshots over a unix socket to `sockrpc top`.

A viewer connects and sends one line, a JSON object: `{"interval": 1.0}`. It receives one line of JSON at
once and then one per interval. Nothing that it sends changes anything. It costs nothing without viewers,
and no viewer can hold up the server: one that does not read misses snapshots, and is dropped in the end.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import socket
import time
from typing import TYPE_CHECKING, Any

from sockrpc.codes import name_of
from sockrpc.errors import UsageError
from sockrpc.listen.notes import about
from sockrpc.listen.unix import SocketFile, remove_stale_socket
from sockrpc.observe.statistics import count
from sockrpc.peer.in_flight import look
from sockrpc.peer.service import Service
from sockrpc.peer.tally import ENDINGS

if TYPE_CHECKING:
    from sockrpc.peer.tally import MethodStatistics

__all__ = ["Inspector", "snapshot"]

# The limit of viewers at a time; any more get an error and are closed.
MAX_VIEWERS = 4

# Seconds between two snapshots; a viewer's interval is clamped to these bounds.
SHORTEST_INTERVAL = 0.5
LONGEST_INTERVAL = 3600.0

# The limit of methods and of connections in a snapshot; those with most calls in flight are kept.
MAX_ROWS = 50

# The limit of calls whose ages a snapshot looks at, about a millisecond of work.
MAX_CALLS = 10_000

# The largest request of a viewer in bytes; a viewer that sends more is dropped, then or later.
MAX_REQUEST_BYTES = 1024

# Seconds for a viewer to send its line, and to read each snapshot.
PATIENCE = 10.0


def snapshot(service: Service, pid: int) -> dict[str, Any]:
    """Return a snapshot of a server, ready for JSON."""
    statistics = count(service)
    methods, connections, complete = look(service, MAX_ROWS, MAX_CALLS)
    totals = dataclasses.asdict(statistics)
    del totals["methods"], totals["unregistered"]
    totals["errors_by_code"] = {
        name_of(code): number for code, number in statistics.errors_by_code.items() if number
    }
    totals["errors_by_outcome"] = {
        outcome: number for outcome, number in statistics.errors_by_outcome.items() if number
    }
    rows = {name: row_of(name, method) for name, method in statistics.methods.items()}
    for name, (in_flight, oldest) in methods.items():
        # In the socket form methods are known only from their calls.
        row = rows.setdefault(name, {"method": name, "in_flight": in_flight})
        row["oldest_seconds"] = oldest
    shown = sorted(rows.values(), key=lambda row: row["in_flight"], reverse=True)
    return {
        "pid": pid,
        "time": time.time(),
        **totals,
        "complete": complete,
        "methods": shown[:MAX_ROWS],
        "connections_in_flight": [
            {
                "connection_id": connection.number,
                "remote_address": connection.log_fields["remote_address"],
                "in_flight": in_flight,
                "waiting": connection.load[1],
                "items_waiting_for_credit": connection.outgoing_load[2],
                "oldest_seconds": oldest,
            }
            for connection, in_flight, oldest in connections
        ],
    }


def row_of(name: str, method: MethodStatistics) -> dict[str, Any]:
    """Return the row of one method."""
    return {
        "method": name,
        "in_flight": method.in_flight,
        "answered": method.answered,
        "failed": method.failed,
        "aborted": sum(getattr(method, each.name) for each in ENDINGS if each.abort_reason),
    }


class Inspector:
    """The unix socket of one server for viewers, accessible only to the owner of the process.

    Args:
        service: The server to look at.
        path: The path of the socket, in which `{pid}` becomes the number of the process. A socket file of a
            dead server is replaced.

    Raises:
        OSError: Another file is there, or a server listens.
    """

    def __init__(self, service: Service, path: str) -> None:
        self.service = service
        self.pid = os.getpid()
        self.path = path.replace("{pid}", str(self.pid))
        self.viewers: set[Viewer] = set()
        self._server: asyncio.AbstractServer | None = None
        self._file: SocketFile | None = None
        self._last: tuple[float, bytes] = (0.0, b"")

    async def open(self) -> None:
        """Start to listen."""
        with about(f"inspect_path {self.path}"):
            await self._open()

    async def _open(self) -> None:
        if not hasattr(socket, "AF_UNIX"):
            raise UsageError("inspect_path needs unix sockets, which this system lacks")
        remove_stale_socket(self.path)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.setblocking(False)
            listening.bind(self.path)
            # The socket does not listen yet, so other users have no access even for a moment.
            os.chmod(self.path, 0o600)
            self._file = SocketFile(self.path)
            listening.listen(MAX_VIEWERS)
            self._server = await asyncio.get_running_loop().create_unix_server(
                lambda: Viewer(self), sock=listening
            )
        except BaseException:
            listening.close()
            self._remove()
            raise

    def close(self) -> None:
        """Stop, and drop all viewers."""
        if self._server is not None:
            self._server.close()
            self._server = None
            self._remove()
        for viewer in list(self.viewers):
            viewer.drop()

    def _remove(self) -> None:
        if self._file is not None:
            self._file.remove()

    def line(self) -> bytes:
        """Return a snapshot as a line; viewers that ask at about the same time share one."""
        now = time.monotonic()
        made, line = self._last
        if not line or now - made >= SHORTEST_INTERVAL / 2:
            line = json.dumps(snapshot(self.service, self.pid)).encode() + b"\n"
            self._last = (now, line)
        return line


class Viewer(asyncio.Protocol):
    """A connected viewer."""

    def __init__(self, inspector: Inspector) -> None:
        self._inspector = inspector
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._request = b""
        self._interval = 0.0
        self._received = 0
        self._blocked_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    # Any: uvloop's transports are no subclasses of asyncio.Transport.
    def connection_made(self, transport: Any) -> None:
        """Called by the transport when a viewer has connected."""
        self._transport = transport
        if len(self._inspector.viewers) >= MAX_VIEWERS:
            self._refuse(f"there are {MAX_VIEWERS} viewers already")
            return
        self._inspector.viewers.add(self)
        self._timer = self._loop.call_later(PATIENCE, self.drop)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport when the viewer is gone."""
        self._inspector.viewers.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def data_received(self, data: bytes) -> None:
        """Called by the transport with bytes of the viewer's request."""
        self._received += len(data)
        if self._received > MAX_REQUEST_BYTES:
            self.drop()
            return
        if self._interval:
            return
        self._request += data
        line, end, _ = self._request.partition(b"\n")
        if not end:
            return
        try:
            interval = float(json.loads(line)["interval"])
        except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
            self._refuse('the first line is {"interval": SECONDS}')
            return
        # In this order min and max also replace not-a-number.
        self._interval = max(SHORTEST_INTERVAL, min(LONGEST_INTERVAL, interval))
        self._show()

    def _show(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(self._interval, self._show)
        if self._transport.get_write_buffer_size() == 0:
            self._blocked_since = None
            self._transport.write(self._inspector.line())
        elif self._blocked_since is None:
            self._blocked_since = self._loop.time()
        elif self._loop.time() - self._blocked_since >= PATIENCE:
            self.drop()

    def _refuse(self, why: str) -> None:
        self._transport.write(json.dumps({"error": why}).encode() + b"\n")
        self._transport.close()

    def drop(self) -> None:
        """Abort the connection."""
        self._transport.abort()
