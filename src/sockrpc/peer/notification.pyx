"""Notifications on the side that serves them."""

cimport cython
from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, PyObject
from libc.stdint cimport uint8_t

import asyncio

from sockrpc._frames cimport MAX_NAME_BYTES, write_notify
from sockrpc.peer.handler cimport Handler, is_coroutine
from sockrpc.peer.procedure cimport Procedure
from sockrpc.peer.raising cimport call_one, take_raised
from sockrpc.peer.variables cimport enter_variables, exit_variables
from sockrpc.websocket.parser cimport MAX_HEADER_BYTES, OPCODE_BINARY, write_header

cdef object CancelledError = asyncio.CancelledError


@cython.final
cdef class Notification(Procedure):
    """A notification, as its handler sees it. It is never answered."""

    def __init__(self, *args, **kwargs):
        raise TypeError("a Notification is made by the server that received it")

    @property
    def event(self) -> str:
        """The name of the event."""
        return self.name

    @cython.nonecheck(True)
    def __repr__(self) -> str:
        return f"<Notification of {self.name!r}, {len(self.payload)} bytes>"

    cdef int begin(self) except -1:
        cdef PyObject *returned
        cdef object variables = self.connection.fresh_variables()
        self.service.notifications_started += 1
        enter_variables(variables)
        returned = call_one(self.handler.function, self)
        exit_variables(variables)
        if returned == NULL:
            self._failed(take_raised())
        else:
            result = <object> returned
            Py_DECREF(result)
            if is_coroutine(result):
                return self.start_coroutine(result, variables)
        return self.end()

    cdef int interrupted(self, object error) except -1:
        return self.end()

    cdef int end(self) except -1:
        if not self.is_over:
            self.is_over = True
            self.connection.on_work_ended(self)
        return 0

    cdef bint owns(self, object task) except -1:
        return task is self.task

    cdef int start_coroutine(self, object coroutine, object variables) except -1:
        cdef object task = self.start_task(coroutine, variables)
        if task.done():
            self._check(task)
            return self.end()
        task.add_done_callback(self._ended)
        # Losing the connection does not abort the task, so the service owns it.
        self.service.keep(task)
        self.task = task
        self.connection.handling_queue().push(self)
        return 0

    def _ended(self, task: asyncio.Task[object]) -> None:
        try:
            self._check(task)
        finally:
            self.task = None
            self.connection.handling.remove(self)
            self.end()

    def _check(self, task: asyncio.Task[object]) -> None:
        if task.cancelled():
            if not self.service.stopping:
                self._failed(CancelledError())
        elif task.exception() is not None:
            self._failed(task.exception())

    def _failed(self, error: BaseException) -> None:
        self.service.notifications_failed += 1
        self.report("the handler of event %r from %s failed", (self.name, self.connection.peer), error)


def shared_notification(name: bytes, payload: bytes) -> bytes:
    """Build one server-side frame of a notification, for many connections."""
    cdef uint8_t header[MAX_HEADER_BYTES]
    cdef uint8_t prefix[2 + MAX_NAME_BYTES]
    cdef const uint8_t *data = name
    cdef Py_ssize_t prefix_size = write_notify(prefix, data, PyBytes_GET_SIZE(name))
    cdef Py_ssize_t header_size = write_header(
        header, OPCODE_BINARY, prefix_size + PyBytes_GET_SIZE(payload), NULL)
    return header[:header_size] + prefix[:prefix_size] + payload
