"""The programs of examples/, as modules."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

from tests.kit.processes import ROOT


def load(name: str) -> ModuleType:
    """A fresh module of examples/NAME.py; what it does only as a program is left out."""
    spec = importlib.util.spec_from_file_location(
        f"examples_{Path(name).name}", ROOT / "examples" / f"{name}.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
