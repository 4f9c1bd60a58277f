# The queue of payloads for one listener of one event.

cdef class Subscription:
    cdef object connection           # the Peer, None once it has ended
    cdef readonly bytes name
    cdef object payloads             # deque of bytes
    cdef Py_ssize_t held_bytes
    cdef readonly object error       # the exception that ends the iteration after the payloads; None for a plain end
    cdef readonly bint finished      # no payload will be added
    cdef object waiter               # future of `wait`

    cdef int add(self, bytes payload, Py_ssize_t max_payloads, Py_ssize_t max_bytes) except -1
    cdef int finish(self, object error) except -1
