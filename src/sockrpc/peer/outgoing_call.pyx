"""A call that this end makes at the other."""

cimport cython

import asyncio

from sockrpc.peer.states cimport CALLER_GIVEN_UP, CALLER_IDLE
from sockrpc.peer.table cimport Entry

from sockrpc.codes import Outcome, outcome_of


@cython.final
cdef class OutgoingCall(Entry):
    """A call that waits for its answer in `future`."""

    def outcome_of(self, loop) -> asyncio.Future[Outcome]:
        """Return a future of what became of the work; cancelling it changes nothing for others."""
        if self.outcome_waiter is None:
            self.outcome_waiter = loop.create_future()
            if self.state != CALLER_GIVEN_UP:
                self.outcome_waiter.set_result(shown_outcome(self.outcome))
        return asyncio.shield(self.outcome_waiter)

    @property
    def is_over(self) -> bool:
        """True once the call has its end, or was given up."""
        return self.state == CALLER_IDLE or self.state == CALLER_GIVEN_UP

    @property
    def takes_no_more(self) -> bool:
        """True if nothing is sent for this call any more."""
        return self.outbox is None or self.outbox.closed


cdef object shown_outcome(int outcome):
    return Outcome.UNKNOWN if outcome == OUTCOME_UNKNOWN else outcome_of(outcome)
