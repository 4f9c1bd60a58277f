"""Apps by their names, MODULE:APP, as the command line and workers find them."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from sockrpc.errors import SockRPCError, UsageError

__all__ = ["WORKER_NAME", "AppError", "import_purpose", "load", "load_app"]

# The name that multiprocessing gives the process of a worker, before its number.
WORKER_NAME = "sockrpc worker"

PACKAGE = __name__.partition(".")[0]

# The apps that are being imported by their names right now, in this process.
IMPORTING: list[str] = []


class AppError(SockRPCError):
    """An app's program failed while it was imported; the text has its part of the traceback."""


def load_app(name: str) -> Any:
    """Return the object named MODULE:APP; errors have texts that say enough without a traceback.

    Raises:
        AppError: The module raised something while it was imported.
        UsageError: There is no such object.
    """
    try:
        return load(name)
    except Exception as error:
        begin, end = steps_of_program(error)
        if isinstance(error, UsageError) and begin == end:
            raise
        shown = traceback.TracebackException.from_exception(error)
        shown.stack[:] = shown.stack[begin:end]
        text = "".join(shown.format()).rstrip()
        raise AppError(f"{name} cannot be imported\n{text}") from None


def load(name: str) -> Any:
    """The object named MODULE:APP; what the module raises goes through.

    Raises:
        UsageError: There is no such object.
    """
    module_name, colon, attributes = name.partition(":")
    if not colon or not module_name or not attributes:
        raise UsageError(f"{name!r} is not MODULE:APP, such as server:app")
    if not all(module_name.split(".")):
        raise UsageError(f"there is no module {module_name!r}")
    IMPORTING.append(name)
    try:
        try:
            if running_program(module_name) is None:
                __import__(module_name)
        except ModuleNotFoundError as error:
            # Only its own absence is the user's typing error; what it imports in vain is a defect of it.
            if error.name is None or not (module_name + ".").startswith(error.name + "."):
                raise
            hint = "; it is named without .py" if module_name.endswith(".py") else ""
            raise UsageError(f"there is no module {module_name!r}{hint}") from None
        found: Any = sys.modules[module_name]
        for attribute in attributes.split("."):
            try:
                found = getattr(found, attribute)
            except AttributeError:
                # Another module of that name may have been found.
                where = getattr(sys.modules[module_name], "__file__", None) or "built in"
                raise UsageError(f"module {module_name!r} ({where}) has no {attributes!r}") from None
    finally:
        IMPORTING.remove(name)
    return found


def running_program(module_name: str) -> ModuleType | None:
    """The program that runs, or that a worker was started for, if that is the module.

    Its file is not executed a second time under another name: that would make another app, of which the
    program knows nothing, and all that the module has done twice over.
    """
    program = sys.modules["__main__"]
    file = getattr(program, "__file__", None)
    if module_name in sys.modules or file is None or Path(file).stem != module_name.rpartition(".")[2]:
        return None
    spec = importlib.util.find_spec(module_name)
    if spec is None or spec.origin is None or Path(spec.origin).resolve() != Path(file).resolve():
        return None
    sys.modules[module_name] = program
    return program


def steps_of_program(error: Exception) -> tuple[int, int]:
    """From where to where the program's own steps are in the traceback of an error; the rest is ours."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    begin, end = 0, len(frames)
    while begin < end and is_ours(frames[begin]):
        begin += 1
    # The place in our own code that noticed a wrong use is of no interest either.
    while begin < end and isinstance(error, UsageError) and is_ours(frames[end - 1]):
        end -= 1
    return begin, end


def is_ours(frame: FrameType) -> bool:
    """Whether a frame runs our code, or what imports for it."""
    name: str = frame.f_globals.get("__name__", "")
    return name.partition(".")[0] in (PACKAGE, "importlib")


def import_purpose() -> str | None:
    """Why the program is being imported, if that is to serve an app of it; None if it runs by itself."""
    if in_worker():
        return "in a worker"
    return f"to find {IMPORTING[-1]!r}" if IMPORTING else None


def in_worker() -> bool:
    """True in a process that is a worker, also while it imports the program."""
    # A process that has not imported multiprocessing was not started by it.
    multiprocessing = sys.modules.get("multiprocessing")
    return multiprocessing is not None and multiprocessing.current_process().name.startswith(WORKER_NAME)
