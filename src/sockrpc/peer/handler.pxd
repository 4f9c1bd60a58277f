# The function that serves one name, and how to run it.

from sockrpc.peer.tally cimport Tally

cdef enum Kind:
    KIND_INLINE = 0        # a plain function, called while the read is parsed
    KIND_COROUTINE = 1
    KIND_THREAD = 2        # a plain function, in a worker thread

cdef class Handler:
    cdef readonly str name
    cdef readonly object function
    cdef readonly int kind
    cdef readonly double timeout            # seconds, 0: none
    cdef readonly bint run_to_completion
    cdef Tally tally

cdef bint is_coroutine(object result) except -1
