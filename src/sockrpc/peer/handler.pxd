# The function that serves one name, and how to run it.

from sockrpc.peer.tally cimport Tally

cdef enum Kind:
    KIND_INLINE = 0        # a plain function, called while the read is parsed
    KIND_COROUTINE = 1
    KIND_GENERATOR = 2     # an async generator function: a stream towards the caller
    # From here on in a worker thread.
    KIND_THREAD = 3        # a plain function
    KIND_THREAD_GENERATOR = 4

cdef class Handler:
    cdef readonly str name
    cdef readonly object function
    cdef readonly int kind
    cdef readonly double timeout            # seconds, 0: none
    cdef readonly bint run_to_completion
    cdef readonly bint streams              # towards the caller
    cdef readonly double credit_timeout     # seconds, 0: the connection's
    cdef Tally tally

cdef bint is_coroutine(object result) except -1
