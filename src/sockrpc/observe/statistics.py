"""Statistics of a server, as immutable values."""

from __future__ import annotations

import dataclasses

from sockrpc.codes import Code, name_of
from sockrpc.peer.service import Service
from sockrpc.peer.tally import MethodStatistics

__all__ = ["Statistics", "count"]


@dataclasses.dataclass(frozen=True, slots=True)
class Statistics:
    """The present state of a server, and its counters since it began.

    Each started call has been answered, has failed, was aborted (reset by its client, lost with its
    connection, timed out by its method or its caller, or stopped with the server), or is in flight. Calls of
    unknown methods count as started and failed; calls that were aborted while they waited count as
    aborted only.

    Attributes:
        slow_peers_closed: Connections closed because the peer did not read its output.
        bytes_received: Bytes read from connections, opening requests included; with TLS, the decrypted ones.
        bytes_sent: Bytes given to transports, likewise.
        items_received: Items of streams that came for calls that run (v1), in both directions of calls.
        item_bytes_received: The bytes of these, payloads and cursors.
        items_sent: Items given to transports, likewise.
        item_bytes_sent: The bytes of these.
        items_waiting_for_credit: Items whose senders wait for their consumers to take earlier ones.
        outgoing_calls_in_flight: Calls that the server has made at its clients and that have not ended.
        outgoing_calls_waiting: Those of them that are not sent yet, because the client has as many calls as
            it takes, or reads too slowly.
        outgoing_calls_started: Calls made at clients; those that ended have been answered or have failed.
        outgoing_calls_answered: Calls at clients that were answered.
        outgoing_calls_failed: Calls at clients that ended in another way: the client has failed them, they
            were given up here, or the connection was lost.
        errors_by_code: Calls of clients that ended with an Error (v1), by its code: each `Code`, and those
            of the application that were sent.
        errors_by_outcome: The same calls by what became of their work: "partial", "not_started", "completed".
        frames_ignored: Frames of a later version of the protocol (v1).
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
    items_received: int
    item_bytes_received: int
    items_sent: int
    item_bytes_sent: int
    items_waiting_for_credit: int
    outgoing_calls_in_flight: int
    outgoing_calls_waiting: int
    outgoing_calls_started: int
    outgoing_calls_answered: int
    outgoing_calls_failed: int
    errors_by_code: dict[Code | int, int]
    errors_by_outcome: dict[str, int]
    frames_ignored: int
    methods: dict[str, MethodStatistics]
    unregistered: MethodStatistics


def count(service: Service) -> Statistics:
    """Return the present statistics of a server."""
    running = waiting = notifying = in_flight = 0
    outgoing = unsent = blocked = 0
    # Iterate over a copy: another thread may count while connections come and go.
    for connection in list(service.working):
        loads = connection.load
        running += loads[0]
        waiting += loads[1]
        notifying += loads[2]
        in_flight += connection.in_flight
        loads = connection.outgoing_load
        outgoing += loads[0]
        unsent += loads[1]
        blocked += loads[2]
    methods, others = service.by_method()
    codes, outcomes = service.errors()
    counters = service.counters()
    ended = counters["outgoing_calls_started"] - outgoing
    return Statistics(
        connections=len(service.connections),
        calls_in_flight=in_flight,
        calls_running=running,
        procedures_waiting=waiting,
        notifications_running=notifying,
        items_waiting_for_credit=blocked,
        outgoing_calls_in_flight=outgoing,
        outgoing_calls_waiting=unsent,
        # In another thread the two numbers may be of different moments.
        outgoing_calls_failed=max(ended - counters["outgoing_calls_answered"], 0),
        errors_by_code=codes,
        # By their names, so that all of it can be written as JSON.
        errors_by_outcome={name_of(outcome): number for outcome, number in outcomes.items()},
        methods=methods,
        unregistered=others,
        **counters,
    )
