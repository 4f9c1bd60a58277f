# The deadlines of the calls of one connection, with one timer for all of them.

from sockrpc.peer.session cimport Session
from sockrpc.peer.table cimport Entry

cdef class Alarms(Session):
    cdef list alarms                 # a heap of entries: none ends later than the two below it; None until the first
    cdef object alarm_timer          # None while no entry has an alarm
    cdef double alarm_at             # loop time at which that is due, or earlier than the first alarm

    # Calls `on_alarm` at `entry.until`, unless `clear_alarm` comes first.
    cdef int set_alarm(self, Entry entry) except -1
    cdef int clear_alarm(self, Entry entry) except -1
    cdef int schedule_alarm(self) except -1
    # The deadline of a call of either side has passed.
    cdef int on_alarm(self, Entry entry) except -1
