"""The function of the application that serves one name, and how to run it."""

cimport cython
from cpython.ref cimport PyObject

import asyncio
import inspect
import types

from sockrpc._debug cimport DEBUG, count_created, count_freed

cdef object CoroutineType = types.CoroutineType


@cython.final
cdef class Handler:
    """A function registered for one name.

    Args:
        name: The method or the event.
        function: A function of one Call or Notification.
        timeout: Seconds after which the work is aborted, 0 for never.
        run_to_completion: Resets and losses do not abort the work.
        thread: The function runs in a worker thread.
        streams: The function streams, although it is no generator function.
        credit_timeout: Seconds to wait for the caller's credit, 0 for the connection's own limit.
    """

    def __cinit__(self, str name, function, *, double timeout=0.0, bint run_to_completion=False,
                  bint thread=False, double credit_timeout=0.0, bint streams=False):
        if DEBUG:
            count_created(<PyObject *> self)
        self.name = name
        self.function = function
        self.timeout = timeout
        self.run_to_completion = run_to_completion
        self.credit_timeout = credit_timeout
        if is_async_generator_function(function):
            self.kind = KIND_GENERATOR
        elif thread:
            self.kind = KIND_THREAD_GENERATOR if is_generator_function(function) else KIND_THREAD
        elif is_coroutine_function(function):
            self.kind = KIND_COROUTINE
        else:
            self.kind = KIND_INLINE
        self.streams = streams or self.kind == KIND_GENERATOR or self.kind == KIND_THREAD_GENERATOR

    @property
    def in_thread(self) -> bool:
        """True if the function runs in a worker thread."""
        return self.kind >= KIND_THREAD

    def copy(self) -> Handler:
        """Return a copy with counts of its own, because each server counts for itself."""
        return Handler(
            self.name, self.function, timeout=self.timeout, run_to_completion=self.run_to_completion,
            thread=self.kind >= KIND_THREAD, credit_timeout=self.credit_timeout, streams=self.streams)

    def __dealloc__(self):
        if DEBUG:
            count_freed(<PyObject *> self)


cdef bint is_coroutine(object result) except -1:
    # A decorated coroutine function does not look like one, but its result does.
    if type(result) is CoroutineType:
        return True
    if result is None or type(result) is str:
        return False
    try:
        return asyncio.iscoroutine(result)
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException:
        # Looking at it raises; `encode_payload` reports that.
        return False


def is_coroutine_function(function: object) -> bool:
    """True for a coroutine function, also as the `__call__` of an object."""
    return inspect.iscoroutinefunction(function) or (
        callable(function) and inspect.iscoroutinefunction(type(function).__call__)
    )


def is_async_generator_function(function: object) -> bool:
    """True for an async generator function, also as the `__call__` of an object."""
    return inspect.isasyncgenfunction(function) or (
        callable(function) and inspect.isasyncgenfunction(type(function).__call__)
    )


def is_generator_function(function: object) -> bool:
    """True for a plain generator function, also as the `__call__` of an object."""
    return inspect.isgeneratorfunction(function) or (
        callable(function) and inspect.isgeneratorfunction(type(function).__call__)
    )
