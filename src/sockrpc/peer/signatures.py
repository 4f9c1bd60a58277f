"""Checks, at registration, that a function can be called the way an application registers it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from sockrpc.errors import UsageError
from sockrpc.peer.handler import is_async_generator_function, is_coroutine_function, is_generator_function

__all__ = ["STREAM", "STREAM_IN_THREAD", "check_function"]

# A function that does not simply return is one of these.
STREAM = 1  # an async generator function
STREAM_IN_THREAD = 2  # a plain generator function

NUMBERS = {1: "one argument", 2: "two arguments"}


def check_function(function: object, what: str, arguments: int = 1, *, stream: int = 0) -> None:
    """Raise if a function cannot do its work.

    Args:
        function: The function to check.
        what: Its name in the error.
        arguments: How many arguments it will be called with.
        stream: STREAM or STREAM_IN_THREAD if it may be such a generator function itself.

    Raises:
        UsageError: It cannot be called, takes other arguments, or is a generator that no code here iterates
            over.
    """
    if not callable(function):
        raise UsageError(f"{what} is not callable")
    streams = stream and (
        is_async_generator_function(function) if stream == STREAM else is_generator_function(function)
    )
    if is_generator(function) and not streams:
        raise UsageError(
            f"{what} is a generator, or wraps one, which nobody would iterate over: a method streams as an "
            "async generator function, or as a plain one with thread=True"
        )
    if not takes(function, arguments):
        raise UsageError(f"{what} has to take {NUMBERS[arguments]}, and no other")


def is_generator(function: Callable[..., Any]) -> bool:
    """Return whether a function, or the one it wraps, is a generator or an asynchronous generator."""
    function = without_partial(function)
    try:
        # A plain wrapper most likely returns the generator that it wraps; a coroutine function consumes it.
        function = inspect.unwrap(function, stop=lambda each: yields(each) or is_coroutine_function(each))
    except ValueError:
        # The function wraps itself.
        return False
    return yields(function)


def yields(function: Callable[..., Any]) -> bool:
    """Return whether calling it makes a generator; it may be an object with such a `__call__`."""
    function = without_partial(function)
    return any(
        inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each)
        for each in (function, type(function).__call__)
    )


def without_partial(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that a `functools.partial` calls in the end."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def takes(function: Callable[..., Any], arguments: int) -> bool:
    """Return whether a function can be called with so many arguments; True if that cannot be determined."""
    try:
        # The wrapper's own signature counts, whatever it wraps.
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError, NameError):
        # Some compiled functions have no signature; Python 3.14 evaluates the names in annotations.
        return True
    try:
        signature.bind(*[None] * arguments)
    except TypeError:
        return False
    return True
