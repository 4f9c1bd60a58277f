"""Notifications on the side that serves them."""

cimport cython

import asyncio

from sockrpc._service cimport Handler, Procedure, is_coroutine

cdef object CancelledError = asyncio.CancelledError


@cython.final
cdef class Notification(Procedure):
    """One notification, as its handler sees it. It is never answered."""

    def __init__(self, *args, **kwargs):
        raise TypeError("a Notification is made by the server that received it")

    @property
    def event(self) -> str:
        """The name that was notified."""
        return self.name

    @cython.nonecheck(True)
    def __repr__(self) -> str:
        return f"<Notification of {self.name!r}, {len(self.payload)} bytes>"

    cdef int begin(self) except -1:
        cdef object result
        self.service.notifications_started += 1
        try:
            result = self.handler.function(self)
        except (Exception, CancelledError) as error:
            self._failed(error)
            return 0
        if result is not None and is_coroutine(result):
            return self.start_coroutine(result)
        return 0

    cdef bint owns(self, object task) noexcept:
        return task is self.task

    cdef int start_coroutine(self, object coroutine) except -1:
        cdef object task = self.service.context.start_task(coroutine)
        if task.done():
            self._check(task)
            return 0
        # Losing the connection does not abort it, so the service owns it.
        self.service.keep(task)
        self.task = task
        self.connection.notifying += 1
        self.connection.handling.push(self)
        task.add_done_callback(self._ended)
        return 0

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._check(task)
        self.connection.notifying -= 1
        self.connection.handling.remove(self)
        self.connection.on_work_ended(self)

    def _check(self, task: asyncio.Task[object]) -> None:
        if task.cancelled():
            if not self.service.stopping:
                self._failed(CancelledError())
        elif task.exception() is not None:
            self._failed(task.exception())

    def _failed(self, error: BaseException) -> None:
        self.service.notifications_failed += 1
        self.service.log.error(
            "the handler of event %r from %s failed", self.name, self.connection.peer, exc_info=error)
