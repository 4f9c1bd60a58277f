"""Whether a function can be called as what an application registers it for, asked before it is called."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from sockrpc.errors import UsageError
from sockrpc.peer.handler import is_coroutine_function

__all__ = ["check_function"]

NUMBERS = {1: "one argument", 2: "two arguments"}


def check_function(function: object, what: str, arguments: int = 1) -> None:
    """Refuse a function that cannot do its work.

    Args:
        function: What the application gives.
        what: How the error names it.
        arguments: How many arguments it will be called with.

    Raises:
        UsageError: It cannot be called, takes other arguments, or is a generator, which nobody iterates over.
    """
    if not callable(function):
        raise UsageError(f"{what} is not callable")
    if is_generator(function):
        raise UsageError(
            f"{what} is a generator, or wraps one, and this version of the protocol has no streams: "
            "return one answer, and send parts as notifications"
        )
    if not takes(function, arguments):
        raise UsageError(f"{what} has to take {NUMBERS[arguments]}, and no other")


def is_generator(function: Callable[..., Any]) -> bool:
    """Whether a function, or what it wraps, is a generator or an asynchronous one."""
    function = without_partial(function)
    try:
        # A plain wrapper most likely passes on what it wraps. A coroutine function has to work through it.
        function = inspect.unwrap(function, stop=lambda each: yields(each) or is_coroutine_function(each))
    except ValueError:
        # It wraps itself.
        return False
    return yields(function)


def yields(function: Callable[..., Any]) -> bool:
    """Whether calling it makes a generator; it may be an object with such a `__call__`."""
    function = without_partial(function)
    return any(
        inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each)
        for each in (function, type(function).__call__)
    )


def without_partial(function: Callable[..., Any]) -> Callable[..., Any]:
    """What a `functools.partial` calls in the end."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def takes(function: Callable[..., Any], arguments: int) -> bool:
    """Whether a function can be called with so many arguments; True where that cannot be known."""
    try:
        # A wrapper takes what it takes itself, whatever the signature of what it wraps.
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError, NameError):
        # Some compiled functions do not tell; Python 3.14 looks up what the annotations name.
        return True
    try:
        signature.bind(*[None] * arguments)
    except TypeError:
        return False
    return True
