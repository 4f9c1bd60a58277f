# A connection that is watched; the base of both roles.

from sockrpc.websocket.connection cimport Connection

cdef class WatchedConnection(Connection):
    cdef int watch_output(self, double now) except -1
    cdef int watch_closing(self, double now) except -1
    cdef int look_at_line(self) except -1
    cdef bint find_overdue(self, double now) except -1
    cdef int ping_if_due(self, double now) except -1
