# A connection without RPC: whole messages in, whole messages out.

from libc.stdint cimport uint8_t

from sockrpc.websocket.connection cimport Connection

cdef class MessageConnection(Connection):
    cdef object receiver             # called with this connection and each message

    cdef int pass_on(self, object message) except -1
