# The handler of a call of sockrpc.v1 may do this beside returning.

from sockrpc.peer.options cimport CallOptions
from sockrpc.peer.outbox cimport Outbox
from sockrpc.peer.spawning cimport Spawning

cdef class Streaming(Spawning):
    cdef CallOptions use_options(self)
    # Aborts the call, as the peer broke a rule that concerns nothing else; `end` is sent to it.
    cdef int break_off(self, int ending, object end) except -1
    cdef Outbox stream_out(self)
    cdef tuple ready(self, Outbox outbox, object payload, object cursor)
