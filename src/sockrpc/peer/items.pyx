"""The iterator over the items of one call."""

cimport cython

from sockrpc.peer.inbox cimport Inbox


@cython.final
cdef class Items:
    """An asynchronous iterator over payloads, with one consumer."""

    cdef Inbox inbox
    cdef object loop

    def __cinit__(self, Inbox inbox not None, loop):
        self.inbox = inbox
        self.loop = loop

    def __aiter__(self):
        return self

    @cython.nonecheck(True)
    async def __anext__(self) -> bytes:
        item = await self.inbox.next(self.loop)
        if item is None:
            raise StopAsyncIteration
        return item

    async def aclose(self) -> None:
        """Leave the items: those that were not taken are dropped, and the sender is told to send no more."""
        self.inbox.leave()

    def __del__(self):
        # A loop over the items was left. In another thread nothing can be told, and the call ends soon anyway.
        if not self.inbox.closed and not self.inbox.left:
            connection = self.inbox.connection
            if connection is not None and not connection.context.loop.is_closed():
                connection.context.call_in_loop(self.inbox.leave)
