# The client's end of one connection.

from libc.stdint cimport uint8_t

from sockrpc.websocket.liveness cimport WatchedConnection
from sockrpc.peer.table cimport Entry, RequestTable
from sockrpc._frames cimport Frame

# One call that waits for its answer. Whoever waits holds it.
cdef class Pending(Entry):
    cdef readonly object future      # of the payload
    cdef bytes name
    cdef bytes payload
    cdef bint unsent                 # its request was not written yet
    cdef Pending following           # in the queue of unsent requests

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
    cdef RequestTable table          # calls in flight by request id
    cdef Pending first_unsent
    cdef Pending last_unsent
    cdef dict subscriptions          # name -> list of Subscription
    cdef readonly object cause       # what the transport says was the end of it, an exception; None: nothing
    cdef Py_ssize_t forks            # how often this process had forked off another when it was made

    cpdef int check_place(self) except -1
    cdef int check_place_closely(self) except -1

    cdef int on_response(self, Frame *frame) except -1
    cdef int on_notify(self, Frame *frame) except -1
    cdef int write_requests(self) except -1
    cdef int fail_all(self) except -1
