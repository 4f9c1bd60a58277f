"""The deadlines of the calls of one connection, with one timer for all of them.

A timer of the loop costs as much as a small call, and nearly all calls end long before their deadlines.
"""

from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.ref cimport PyObject
from libc.stdint cimport int32_t

from sockrpc.peer.session cimport Session
from sockrpc.peer.table cimport Entry

cdef extern from *:
    """
    /* The items of a list change places, which changes no count of references. */
    #define SOCKRPC_SWAP(list, i, j) do { \\
        PyObject **items = ((PyListObject *) (list))->ob_item; \\
        PyObject *item = items[i]; \\
        items[i] = items[j]; \\
        items[j] = item; \\
    } while (0)
    """
    void swap "SOCKRPC_SWAP" (list items, Py_ssize_t i, Py_ssize_t j) noexcept

# Seconds by which the clock of a loop may be behind its own timers, since uvloop's has whole milliseconds.
cdef double RESOLUTION = 0.0005

cdef enum:
    # Calls to abort in one iteration of the loop: each costs some microseconds here, and more when its task unwinds.
    ALARMS_AT_ONCE = 256


cdef inline Entry entry_at(list alarms, Py_ssize_t i):
    return <Entry> <object> PyList_GET_ITEM(alarms, i)


cdef inline double until_of(list alarms, Py_ssize_t i) noexcept:
    return (<Entry> <PyObject *> PyList_GET_ITEM(alarms, i)).until


cdef int exchange(list alarms, Py_ssize_t i, Py_ssize_t j) except -1:
    swap(alarms, i, j)
    entry_at(alarms, i).alarm = <int32_t> (i + 1)
    entry_at(alarms, j).alarm = <int32_t> (j + 1)
    return 0


cdef int settle(list alarms, Py_ssize_t i) except -1:
    """Move an entry up or down to where it belongs."""
    cdef Py_ssize_t count = PyList_GET_SIZE(alarms)
    cdef Py_ssize_t other
    while i > 0 and until_of(alarms, i) < until_of(alarms, (i - 1) // 2):
        exchange(alarms, i, (i - 1) // 2)
        i = (i - 1) // 2
    while 2 * i + 1 < count:
        other = 2 * i + 1
        if other + 1 < count and until_of(alarms, other + 1) < until_of(alarms, other):
            other += 1
        if until_of(alarms, i) <= until_of(alarms, other):
            break
        exchange(alarms, i, other)
        i = other
    return 0


cdef class Alarms(Session):
    """A connection whose calls may have deadlines."""

    cdef int on_alarm(self, Entry entry) except -1:
        raise NotImplementedError

    cdef int set_alarm(self, Entry entry) except -1:
        if self.alarms is None:
            self.alarms = []
        self.alarms.append(entry)
        entry.alarm = <int32_t> PyList_GET_SIZE(self.alarms)
        settle(self.alarms, entry.alarm - 1)
        if self.alarm_timer is None or entry.until < self.alarm_at:
            self.schedule_alarm()
        return 0

    cdef int clear_alarm(self, Entry entry) except -1:
        cdef Py_ssize_t i = entry.alarm - 1
        cdef Py_ssize_t last
        if i < 0 or self.alarms is None:
            return 0
        last = PyList_GET_SIZE(self.alarms) - 1
        if i != last:
            exchange(self.alarms, i, last)
        entry.alarm = 0
        self.alarms.pop()
        if i != last:
            settle(self.alarms, i)
        elif last == 0 and self.alarm_timer is not None:
            # Otherwise it goes off in vain, which costs less than a new one.
            self.alarm_timer.cancel()
            self.alarm_timer = None
        return 0

    cdef int schedule_alarm(self) except -1:
        if self.alarm_timer is not None:
            self.alarm_timer.cancel()
        self.alarm_at = until_of(self.alarms, 0)
        self.alarm_timer = self.context.loop.call_at(
            self.alarm_at, self._alarm_is_due, context=self.callback_context())
        return 0

    def _alarm_is_due(self) -> None:
        cdef Entry entry
        cdef int count = 0
        cdef double now = <double> self.context.loop.time() + RESOLUTION
        self.alarm_timer = None
        while self.alarms and count < ALARMS_AT_ONCE and until_of(self.alarms, 0) <= now:
            entry = entry_at(self.alarms, 0)
            self.clear_alarm(entry)
            count += 1
            try:
                self.on_alarm(entry)
            except Exception as error:  # pragma: no memory
                self.context.report(error)  # pragma: no memory
        if self.alarms and self.alarm_timer is None:
            self.schedule_alarm()
