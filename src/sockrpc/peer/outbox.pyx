"""The items that one call sends, as far as the credit of their consumer goes."""

cimport cython
from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

import asyncio

from sockrpc._debug cimport DEBUG, count_created, count_freed
from sockrpc._frames cimport MAX_CURSOR_BYTES, MAX_ITEM_PREFIX_BYTES, write_end, write_item
from sockrpc.peer.inbox cimport ITEM_COST
from sockrpc.peer.session cimport Session

from sockrpc.errors import UsageError

cdef int64_t LARGEST_BALANCE = 2_147_483_647


cdef Outbox new_outbox(Session connection, uint32_t id):
    cdef Outbox outbox = Outbox.__new__(Outbox)
    outbox.connection = connection
    outbox.id = id
    outbox.balance = connection.their_window
    return outbox


@cython.final
cdef class Outbox:
    """The items that one call sends."""

    def __cinit__(self):
        if DEBUG:
            count_created(<PyObject *> self)

    def __dealloc__(self):
        if DEBUG:
            count_freed(<PyObject *> self)

    cdef bint put(self, bytes payload, bytes cursor) except -1:
        cdef uint8_t prefix[MAX_ITEM_PREFIX_BYTES]
        cdef Py_ssize_t size = PyBytes_GET_SIZE(payload)
        if self.balance <= 0 or self.connection.write_paused or self.unsent or self.closed:
            return False
        if cursor is not None:
            size += PyBytes_GET_SIZE(cursor)
        self.balance -= size + ITEM_COST
        self.connection.traffic.items_sent += 1
        self.connection.traffic.item_bytes_sent += <uint64_t> size
        self.connection.send(prefix, write_item(prefix, self.id, cursor), payload)
        self.connection.write_soon(False)
        return True

    cdef bint turn_is_over(self) except -1:
        # With enough credit, and a peer that reads as fast, a sender would never wait.
        self.tries += 1
        if self.tries < ITEMS_PER_LOOK:
            return False
        self.tries = 0
        self.connection.context.begin_turn(self.connection)
        return self.connection.context.tick() >= self.connection.turn_until

    def try_send(self, payload: bytes) -> bool:
        """Send an item if that is possible without waiting; False if it is not, or never will be."""
        if self.turn_is_over():
            self.pauses = True
            return False
        return self.put(payload, None)

    def check(self, payload: bytes, cursor: bytes | None) -> None:
        """Check that an item can be sent at all.

        Raises:
            UsageError: It is larger than the window of its consumer, or its cursor is too long.
        """
        cdef Py_ssize_t size = PyBytes_GET_SIZE(payload)
        if cursor is not None:
            if PyBytes_GET_SIZE(cursor) > MAX_CURSOR_BYTES:
                raise UsageError(f"a cursor has at most {MAX_CURSOR_BYTES} bytes, this one {len(cursor)}")
            size += PyBytes_GET_SIZE(cursor)
        # The window's own size without the cost of an item, which would forbid payloads of exactly a window.
        if size > self.connection.their_window or size + ITEM_PREFIX_BYTES > self.connection.their_message_bytes:
            raise UsageError(
                f"an item has at most {min(self.connection.their_window, self.connection.their_message_bytes - ITEM_PREFIX_BYTES)} "
                f"bytes here, this one {size}")

    cdef bint add(self, int64_t size) except -1:
        cdef int64_t before = self.balance
        if before + size > LARGEST_BALANCE:
            return False
        self.balance = before + size
        if before <= 0 < self.balance:
            self.wake()
        return True

    cdef int wake(self) except -1:
        cdef list waiters = self.waiters
        self.waiters = None
        if waiters is not None:
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
        return 0

    cdef int written(self) except -1:
        self.unsent = False
        if self.ended:
            return self.send_end()
        return self.wake()

    cdef int send_end(self) except -1:
        cdef uint8_t prefix[5]
        self.connection.send(prefix, write_end(prefix, self.id), b"")
        return self.connection.write_soon(False)

    cdef int close(self) except -1:
        if not self.closed:
            self.closed = True
            self.wake()
        if self.connection.stalled is not None:
            # A peer that never reads may open and reset calls meanwhile, as often as it wants.
            self.connection.stalled.pop(self, None)
        return 0

    @cython.nonecheck(True)
    async def send(self, bytes payload, bytes cursor) -> bool:
        """Send an item; waits for credit and for a slow peer. False if nothing more is sent.

        Cancelling it sends nothing.
        """
        cdef bint sent
        cdef bint blocked
        if self.pauses:
            self.pauses = False
            await asyncio.sleep(0)
        while not self.closed:
            sent = self.put(payload, cursor)
            if sent:
                return True
            # Otherwise it waits for room in the output, or for its request to be written.
            blocked = self.balance <= 0
            self.connection.items_blocked += blocked
            try:
                await self.wait()
            finally:
                self.connection.items_blocked -= blocked
        return False

    def wait(self):
        """Return a future that is done when it is worth another try."""
        cdef Py_ssize_t count
        waiter = self.connection.context.loop.create_future()
        if self.waiters is None:
            self.waiters = []
        if self.connection.write_paused:
            if self.connection.stalled is None:
                self.connection.stalled = {}
            self.connection.stalled[self] = None
        count = len(self.waiters)
        if count >= 8 and count & (count - 1) == 0:
            # Senders that were cancelled are left behind; they must not pile up while the peer grants nothing.
            self.waiters = [each for each in self.waiters if not each.done()]
        self.waiters.append(waiter)
        return waiter

    def wake_up(self) -> None:
        """Let senders try again, as there is room in the output."""
        self.wake()

    def end(self) -> None:
        """Tell the consumer that no more items come."""
        if self.closed:
            return
        self.closed = True
        self.ended = True
        self.wake()
        if not self.unsent:
            self.send_end()
