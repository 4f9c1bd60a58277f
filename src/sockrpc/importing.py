"""Apps by their names, MODULE:APP, as the command line and workers find them."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from sockrpc.errors import UsageError

__all__ = ["WORKER_NAME", "in_worker", "load"]

# What multiprocessing calls the process of a worker, before its number.
WORKER_NAME = "sockrpc worker"


def load(name: str) -> Any:
    """The object named MODULE:APP.

    Raises:
        UsageError: There is no such object.
    """
    module_name, colon, attributes = name.partition(":")
    if not colon or not module_name or not attributes:
        raise UsageError(f"{name!r} is not MODULE:APP, such as server:app")
    if not all(module_name.split(".")):
        raise UsageError(f"there is no module {module_name!r}")
    try:
        found: Any = running_program(module_name) or importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # Only its own absence is the user's typing error; what it imports in vain is a defect of it.
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise
        hint = "; it is named without .py" if module_name.endswith(".py") else ""
        raise UsageError(f"there is no module {module_name!r}{hint}") from None
    for attribute in attributes.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise UsageError(f"module {module_name!r} has no {attributes!r}") from None
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


def in_worker() -> bool:
    """True in a process that is a worker, also while it imports the program."""
    # Whoever has not imported it was not started by it.
    multiprocessing = sys.modules.get("multiprocessing")
    return multiprocessing is not None and multiprocessing.current_process().name.startswith(WORKER_NAME)
