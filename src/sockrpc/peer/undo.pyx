"""The hooks that undo the work of aborted calls; they run one after another, the last registered first."""

cimport cython
from cpython.ref cimport PyObject
from libc.stdint cimport uint32_t

import asyncio
import contextvars
import inspect

from sockrpc._debug cimport DEBUG, count_created, count_freed
from sockrpc.peer.service cimport Service
from sockrpc.peer.variables cimport enter_variables, exit_variables

cdef object CancelledError = asyncio.CancelledError


@cython.final
cdef class UndoHooks:
    """The undo hooks of one call.

    Args:
        service: Its log reports failing hooks.
        method: The name that was called.
        id: The id of the call.
        fields: Fields for the log records.
    """

    def __cinit__(self, Service service not None, str method, uint32_t id, dict fields):
        if DEBUG:
            count_created(<PyObject *> self)
        self.service = service
        self.method = method
        self.id = id
        self.fields = fields
        self.hooks = []
        self.variables = contextvars.copy_context()

    def __dealloc__(self):
        if DEBUG:
            count_freed(<PyObject *> self)

    cdef object start(self):
        # Hooks see the variables of the handler that registered the first of them, and leave no changes in them.
        enter_variables(self.variables)
        try:
            return self.service.context.start_task(self._run(), False)
        finally:
            exit_variables(self.variables)  # pragma: no trace

    async def _run(self) -> None:
        while self.hooks:
            callback, args = self.hooks.pop()
            try:
                result = callback(*args)
                if inspect.isawaitable(result):
                    await result
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                stopped = asyncio.current_task().cancelling()
                if stopped and isinstance(error, CancelledError):
                    # This cancel is the end of the stop grace.
                    raise
                self.service.log.error(
                    "an undo hook of method %r, call %d, failed", self.method, self.id, exc_info=error,
                    extra=self.fields)
                if stopped:
                    self.hooks.clear()

    cdef bint ended(self, object task) except -1:
        self.running = False
        if task.cancelled():
            # The task is cancelled only at the end of a stop; remaining hooks never run.
            self.hooks.clear()
        return not self.hooks
