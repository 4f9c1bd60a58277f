# The client's end of one connection.

from libc.stdint cimport uint8_t

from sockrpc._keepalive cimport WatchedConnection
from sockrpc._dispatch cimport Entry
from sockrpc._frames cimport Frame

# One call that waits for its answer. Its connection holds it, or nothing would hold a task that waits in it.
cdef class Pending(Entry):
    cdef readonly object future      # of the payload
    cdef bytes name
    cdef bytes payload
    cdef bint unsent                 # its request was not written yet
    cdef Pending previous            # of those in flight, in the order of their requests
    cdef Pending following

# Where the payloads of one event go for one listener.
cdef class Subscription:
    cdef ClientConnection connection # None once it has ended
    cdef readonly bytes name
    cdef object payloads             # deque of bytes
    cdef Py_ssize_t held_bytes
    cdef readonly object error       # what ends the iteration after the payloads; None: a plain end
    cdef readonly bint over          # no payload will be added
    cdef object waiter               # future of `wait`

    cdef int add(self, bytes payload, Py_ssize_t max_payloads, Py_ssize_t max_bytes) except -1
    cdef int finish(self, object error) except -1

cdef class ClientConnection(WatchedConnection):
    cdef Pending first               # of those in flight: all that are in the table
    cdef Pending last
    cdef Pending first_unsent        # of those in flight, from here on none is written
    cdef dict subscriptions          # name -> list of Subscription
    cdef readonly object cause       # what the transport says was the end of it, an exception; None: nothing
    cdef Py_ssize_t forks            # how often this process had forked off another when it was made

    cpdef int check_place(self) except -1
    cdef int check_place_closely(self) except -1

    # True if it was in flight; it is not any more.
    cdef bint take(self, Pending pending) noexcept
    cdef int on_response(self, Frame *frame) except -1
    cdef int on_notify(self, Frame *frame) except -1
    cdef int write_requests(self) except -1
    cdef int fail_all(self) except -1
