"""The iterator over the items of one call."""

cimport cython

from sockrpc.peer.inbox cimport Inbox

from sockrpc.peer.next_item import next_item


@cython.final
cdef class Items:
    """An asynchronous iterator over payloads, with one consumer."""

    cdef Inbox inbox
    cdef object loop
    cdef object owner

    def __cinit__(self, Inbox inbox not None, loop, owner=None):
        self.inbox = inbox
        self.loop = loop
        # A stream that is left acts by itself.
        self.owner = owner

    def __aiter__(self):
        return self

    def __anext__(self):
        return next_item(self.inbox, self.loop)

    async def aclose(self) -> None:
        """Leave the items: those that were not taken are dropped, and the sender is asked for no more."""
        self.inbox.leave()

    def __del__(self):
        # A loop over the items was left.
        if self.owner is None and not self.inbox.closed and not self.inbox.left:
            connection = self.inbox.connection
            if connection is not None and not connection.context.loop.is_closed():
                connection.context.call_in_loop(self.inbox.leave)
