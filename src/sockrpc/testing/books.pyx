"""Tests of sockrpc see here what one end of a connection counts of its calls; nothing else imports this."""

from libc.stdint cimport uint32_t

from typing import NamedTuple

from sockrpc.peer.call cimport Call
from sockrpc.peer.inbox cimport Inbox
from sockrpc.peer.outbox cimport Outbox
from sockrpc.peer.outgoing_call cimport OutgoingCall
from sockrpc.peer.peer cimport PeerBase
from sockrpc.peer.states cimport CALLEE_STOPPING, CALLER_GIVEN_UP


class Flow(NamedTuple):
    """The items of a call that has not ended and was not given up, as one end counts them.

    Attributes:
        id: The id of the call.
        calls: True if this end has made it.
        balance: Bytes that this end may send; None if it sends no items.
        window: Bytes that the other end may send without credit; None if it sends no items.
        allowed: The other's balance as this end reckons it, with everything that is on its way.
        held: The cost of the items that wait for the application.
        taken: The cost of those that it has taken, as far as no credit was granted.
        left: The application takes no more.
    """

    id: int
    calls: bool
    balance: int | None
    window: int | None
    allowed: int
    held: int
    taken: int
    left: bool


cdef object flow_of(uint32_t id, bint calls, Outbox outbox, Inbox inbox):
    balance = None if outbox is None else outbox.balance
    if inbox is None:
        return Flow(id, calls, balance, None, 0, 0, 0, False)
    return Flow(id, calls, balance, inbox.window, inbox.allowed, inbox.held, inbox.taken, inbox.left)


def flows(PeerBase peer not None) -> list[Flow]:
    """Return what an end counts of each call with items."""
    cdef list found = []
    cdef OutgoingCall made = peer.first
    cdef Call call
    while made is not None:
        if made.state != CALLER_GIVEN_UP and (made.outbox is not None or made.inbox is not None):
            found.append(flow_of(made.id, True, made.outbox, made.inbox))
        made = made.following
    for entry in peer.incoming.entries():
        call = entry
        if call.state != CALLEE_STOPPING and call.options is not None:
            found.append(flow_of(call.id, False, call.options.outbox, call.options.inbox))
    return found


def books(PeerBase peer not None) -> dict[str, int]:
    """Return everything that an end counts of its calls; all of it is 0 when nothing is open and nothing runs."""
    return {
        "calls made": peer.outgoing.count,
        "links of calls made": (peer.first is not None) + (peer.last is not None) + (peer.first_unsent is not None),
        "unsent": peer.unsent_count,
        "open for the other's limit": peer.open_count,
        "calls received": peer.incoming.count,
        "stopping": peer.stopping_count,
        "running": peer.active_count,
        "nested": peer.nested_count,
        "notifications running": peer.notifying,
        "waiting": peer.waiting.count,
        "notices waiting": peer.notices.count,
        "bytes waiting": peer.waiting_bytes,
        "bytes running": peer.running_bytes,
        "bytes reserved": peer.reserved_bytes,
        "work": 0 if peer.active is None else peer.active.count,
        "output": peer.output.size,
        "stalled senders": 0 if peer.stalled is None else len(peer.stalled),
    }


def write_out(PeerBase peer not None) -> None:
    """Give the transport what an end has gathered in this iteration, so that all that is on its way can be seen."""
    peer.flush()
