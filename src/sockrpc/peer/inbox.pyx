"""The items that one call receives, and the credit that is granted for those that the application has taken.

Conservation (PROTOCOL.md): balance + on the way + held + taken but not granted = window.
"""

cimport cython
from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from collections import deque

from sockrpc._debug cimport DEBUG, count_created, count_freed
from sockrpc._frames cimport write_credit
from sockrpc.peer.session cimport Session


cdef Inbox new_inbox(Session connection, uint32_t id, Py_ssize_t window, bint tracked):
    cdef Inbox inbox = Inbox.__new__(Inbox)
    inbox.connection = connection
    inbox.id = id
    inbox.window = inbox.allowed = window
    inbox.tracked = tracked
    return inbox


@cython.final
cdef class Inbox:
    """The items that one call receives."""

    def __cinit__(self):
        if DEBUG:
            count_created(<PyObject *> self)
        self.items = deque()

    def __dealloc__(self):
        if DEBUG:
            count_freed(<PyObject *> self)

    cdef bint add(self, object item, Py_ssize_t size) except -1:
        cdef Py_ssize_t cost = size + ITEM_COST
        if self.allowed <= 0 or cost - ITEM_COST > self.window:
            return False
        self.allowed -= cost
        if self.connection is not None:
            self.connection.traffic.items_received += 1
            self.connection.traffic.item_bytes_received += <uint64_t> size
        if self.left:
            # It was on its way when the application left, and its sender was told so.
            return True
        self.held += cost
        self.items.append(item)
        if self.drained:
            self.take()
            return True
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)
        return True

    cdef object take(self):
        """Return the next payload, None if there is none."""
        cdef object item
        cdef Py_ssize_t cost
        if not self.items:
            return None
        item = self.items.popleft()
        if self.tracked:
            item, self.cursor = item
            cost = PyBytes_GET_SIZE(item) + PyBytes_GET_SIZE(self.cursor) + ITEM_COST
        else:
            cost = PyBytes_GET_SIZE(item) + ITEM_COST
        self.held -= cost
        self.taken += cost
        # A sender stands still at balance 0, so lumps are half a window: larger ones would stop it in between.
        if 2 * self.taken >= self.window and self.connection is not None and not self.closed:
            cost = self.taken
            self.taken = 0
            self.grant(cost)
        return item

    cdef int grant(self, Py_ssize_t size) except -1:
        cdef uint8_t prefix[9]
        self.allowed += size
        self.connection.send(prefix, write_credit(prefix, self.id, <uint32_t> size), b"")
        return self.connection.write_soon(False)

    cdef int close(self, object error) except -1:
        if self.closed:
            return 0
        self.closed = True
        self.error = error
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)
        return 0

    cdef int release(self) except -1:
        self.connection = None
        return 0

    def leave(self) -> None:
        """Take no more items: those that are held are dropped, and the sender is asked for no more."""
        cdef uint8_t prefix[9]
        if self.left:
            return
        self.left = True
        self.items.clear()
        self.held = 0
        if self.connection is not None and not self.closed and not self.connection.ended:
            self.connection.send(prefix, write_credit(prefix, self.id, 0), b"")
            self.connection.write_soon(False)

    def take_item(self) -> bytes | None:
        """Return the next payload; None if there is none."""
        return self.take()

    def drain(self) -> None:
        """Drop all items from here on, as if the application took them at once."""
        self.drained = True
        while self.take() is not None:
            pass

    @property
    def held_bytes(self) -> int:
        """The cost of the items that the application has not taken."""
        return self.held

    @cython.nonecheck(True)
    async def step(self, loop):
        """Return the next item, as the `__anext__` of an iterator does. Cancelling it loses nothing.

        Raises:
            RPCError, ConnectionLost: The call has failed, and all items that came before were taken.
        """
        item = self.take()
        while item is None:
            if self.closed:
                if self.error is not None:
                    raise self.error
                raise StopAsyncIteration
            if self.waiter is None or self.waiter.done():
                self.waiter = loop.create_future()
            await self.waiter
            item = self.take()
        return item
