# Notifications on the side that serves them.

from sockrpc.peer.handler cimport Handler
from sockrpc.peer.procedure cimport Procedure

cdef class Notification(Procedure):
    cdef Handler handler             # None in the socket form
    cdef object task
    cdef bint is_over                # nothing of it runs any more

    cdef int start_coroutine(self, object coroutine, object variables) except -1
    cdef int end(self) except -1
