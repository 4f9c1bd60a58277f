# The items that one call sends.

from libc.stdint cimport int64_t, uint8_t, uint32_t

from sockrpc._frames cimport MAX_CURSOR_BYTES
from sockrpc.peer.session cimport Session

cdef enum:
    ITEM_PREFIX_BYTES = 6            # those before the payload, if the cursor is empty
    ITEMS_PER_LOOK = 32              # items between two looks at the clock

cdef class Outbox:
    cdef Session connection
    cdef uint32_t id
    cdef int64_t balance             # bytes that may be sent; below 0 after the last item that was
    cdef readonly bint closed        # nothing more is sent
    cdef bint ended                  # End was sent
    cdef list waiters                # futures of senders, None until the first
    cdef readonly bint unsent        # the request itself is not written yet
    cdef uint8_t tries               # to send, since the last look at the clock
    cdef bint pauses                 # the next sender gives others their turn first

    # Sends an item if it may be sent now.
    cdef bint put(self, bytes payload, bytes cursor) except -1
    # True now and then, when the connection has had its turn in this iteration.
    cdef bint turn_is_over(self) except -1
    # Items without a cursor that are not larger need no `check`.
    cdef inline Py_ssize_t small_bytes(self) noexcept:
        return min(self.connection.their_message_bytes - ITEM_PREFIX_BYTES, MAX_CURSOR_BYTES)

    cdef bint add(self, int64_t size) except -1    # more credit; False if the balance overflows
    cdef int wake(self) except -1
    cdef int close(self) except -1
    cdef int written(self) except -1               # the request itself
    cdef int send_end(self) except -1

cdef Outbox new_outbox(Session connection, uint32_t id)
