# What sockrpc.v1 lets the handler of a call do beside returning.

from sockrpc.peer.options cimport CallOptions
from sockrpc.peer.outbox cimport Outbox
from sockrpc.peer.spawning cimport Spawning

cdef class Streaming(Spawning):
    cdef CallOptions use_options(self)
    cdef int arm_deadline(self) except -1
    # The peer broke a rule of this very call.
    cdef int break_off(self, object end) except -1
    cdef Outbox stream_out(self)
