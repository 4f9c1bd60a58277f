# Notifications on the side that serves them.

from sockrpc._service cimport Handler, Procedure

cdef class Notification(Procedure):
    cdef Handler handler             # None in the socket form
    cdef object task

    cdef int start_coroutine(self, object coroutine) except -1
