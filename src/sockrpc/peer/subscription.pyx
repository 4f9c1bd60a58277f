"""The queue of payloads for one listener of one event."""

cimport cython
from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.ref cimport PyObject

from collections import deque

from sockrpc._debug cimport DEBUG, count_created, count_freed

from sockrpc.errors import ListenerOverflow


@cython.final
cdef class Subscription:
    """The queue of payloads for one listener of one event."""

    def __cinit__(self, connection, bytes name):
        if DEBUG:
            count_created(<PyObject *> self)
        self.connection = connection
        self.name = name
        self.payloads = deque()

    def __dealloc__(self):
        if DEBUG:
            count_freed(<PyObject *> self)

    cdef int add(self, bytes payload, Py_ssize_t max_payloads, Py_ssize_t max_bytes) except -1:
        if len(self.payloads) >= max_payloads or self.held_bytes + PyBytes_GET_SIZE(payload) > max_bytes:
            self.connection.unsubscribe(self)
            return self.finish(ListenerOverflow(
                f"a listener of {self.name!r} fell behind by {len(self.payloads)} payloads, "
                f"{self.held_bytes} bytes"))
        self.payloads.append(payload)
        self.held_bytes += PyBytes_GET_SIZE(payload)
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)
        return 0

    cdef int finish(self, object error) except -1:
        if self.finished:
            return 0
        self.finished = True
        self.error = error
        self.connection = None
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)
        return 0

    def take(self) -> bytes | None:
        """Return the next payload, None if there is none."""
        cdef bytes payload
        if not self.payloads:
            return None
        payload = self.payloads.popleft()
        self.held_bytes -= PyBytes_GET_SIZE(payload)
        return payload

    def wait(self, loop):
        """Return a future that is done when there is a payload or the end."""
        if self.connection is not None:
            self.connection.check_place()
        if self.waiter is None or self.waiter.done():
            self.waiter = loop.create_future()
            if self.payloads or self.finished:
                self.waiter.set_result(None)
        return self.waiter

    def cancel(self) -> None:
        """Unsubscribe and drop the queued payloads."""
        if self.connection is not None:
            self.connection.unsubscribe(self)
        self.payloads.clear()
        self.held_bytes = 0
        self.finish(None)
