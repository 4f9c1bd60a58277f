"""Statistics of a server, as immutable values."""

from __future__ import annotations

import dataclasses

from sockrpc.peer.service import Service
from sockrpc.peer.tally import MethodStatistics

__all__ = ["Statistics", "count"]


@dataclasses.dataclass(frozen=True, slots=True)
class Statistics:
    """The present state of a server, and its counters since it began.

    Each started call has been answered, has failed, was aborted (reset by its client, lost with its
    connection, timed out by its own method, or stopped with the server), or is in flight. Calls of
    unknown methods count as started and failed; calls that were aborted while they waited count as
    aborted only.

    Attributes:
        slow_peers_closed: Connections closed because the peer did not read its output.
        bytes_received: Bytes read from connections, opening requests included; with TLS, the decrypted ones.
        bytes_sent: Bytes given to transports, likewise.
        methods: Statistics by registered method.
        unregistered: Calls of methods that are not registered; in the socket form, all calls.
    """

    connections: int
    calls_in_flight: int
    calls_running: int
    procedures_waiting: int
    notifications_running: int
    calls_started: int
    calls_answered: int
    calls_failed: int
    calls_reset: int
    calls_lost: int
    calls_timed_out: int
    calls_stopped: int
    notifications_started: int
    notifications_failed: int
    notifications_dropped: int
    connections_accepted: int
    slow_peers_closed: int
    bytes_received: int
    bytes_sent: int
    methods: dict[str, MethodStatistics]
    unregistered: MethodStatistics


def count(service: Service) -> Statistics:
    """Return the present statistics of a server."""
    running = waiting = notifying = in_flight = 0
    # Iterate over a copy: another thread may count while connections come and go.
    for connection in list(service.working):
        loads = connection.load
        running += loads[0]
        waiting += loads[1]
        notifying += loads[2]
        in_flight += connection.in_flight
    methods, others = service.by_method()
    return Statistics(
        connections=len(service.connections),
        calls_in_flight=in_flight,
        calls_running=running,
        procedures_waiting=waiting,
        notifications_running=notifying,
        methods=methods,
        unregistered=others,
        **service.counters(),
    )
