# The items that one call receives.

from libc.stdint cimport uint32_t

from sockrpc.peer.session cimport Session

cdef class Inbox:
    cdef Session connection          # the one to grant credit over, None once the call has ended
    cdef uint32_t id
    cdef object items                # deque of (payload, cursor) of a tracked call, of payloads of any other
    cdef Py_ssize_t window
    cdef Py_ssize_t held             # the cost of `items`
    cdef Py_ssize_t taken            # the cost of what the application has taken and credit was not granted for
    cdef Py_ssize_t allowed          # the balance of the sender, at most
    cdef readonly bint tracked
    cdef readonly bint closed        # no more items will come
    cdef readonly bint left          # the application takes no more
    cdef bint drained                # the application takes all items at once, and drops them
    cdef object error                # raised behind the items, None for a plain end
    cdef object waiter
    cdef readonly bytes cursor       # the one that came with the item taken last

    # Returns False if the sender has ignored its balance. `item` is one of `items`.
    cdef bint add(self, object item, Py_ssize_t size) except -1
    cdef int close(self, object error) except -1
    cdef int grant(self, Py_ssize_t size) except -1
    cdef object take(self)
    cdef int release(self) except -1              # the call has ended: grant nothing more

cdef Inbox new_inbox(Session connection, uint32_t id, Py_ssize_t window, bint tracked)

cdef enum:
    ITEM_COST = 64                   # an item costs this, its payload and its cursor
