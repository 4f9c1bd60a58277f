"""The stubs of compiled modules against what they describe.

`make check` runs stubtest as well; this is what it does not see, and what must hold in a wheel.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import types
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.newest

TPFLAGS_BASETYPE = 1 << 10
# The declarations are not in an installed package.
SOURCE = Path(__file__).parent.parent / "src" / "sockrpc"
FILES = {each.name: each for each in resources.files("sockrpc").iterdir()}
STUBS = sorted(name.removesuffix(".pyi") for name in FILES if name.endswith(".pyi"))

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Class:
    """What a stub says about a class."""

    module: str
    name: str
    bases: list[str]
    final: bool
    methods: dict[str, Function] = field(default_factory=dict)
    properties: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)

    @property
    def runtime(self) -> type:
        value: type = getattr(importlib.import_module(f"sockrpc.{self.module}"), self.name)
        return value

    def described_methods(self) -> dict[str, Function]:
        """The public methods that there are; that there are all is a test of its own."""
        return {
            name: node
            for name, node in self.methods.items()
            if not name.startswith("_") and hasattr(self.runtime, name)
        }

    @property
    def is_tuple(self) -> bool:
        return "NamedTuple" in self.bases


def decorators(node: Function | ast.ClassDef) -> set[str]:
    return {each.id for each in node.decorator_list if isinstance(each, ast.Name)}


def read_class(module: str, node: ast.ClassDef) -> Class:
    bases = [each.id for each in node.bases if isinstance(each, ast.Name)]
    found = Class(module, node.name, bases, "final" in decorators(node))
    for item in node.body:
        if isinstance(item, Function):
            if "property" in decorators(item):
                found.properties.add(item.name)
            else:
                found.methods[item.name] = item
        elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            found.attributes.add(item.target.id)
    return found


def read_stub(module: str) -> ast.Module:
    return ast.parse(FILES[f"{module}.pyi"].read_text(encoding="utf-8"))


CLASSES = {
    node.name: read_class(module, node)
    for module in STUBS
    for node in read_stub(module).body
    if isinstance(node, ast.ClassDef)
}
FUNCTIONS = [
    (module, node) for module in STUBS for node in read_stub(module).body if isinstance(node, Function)
]


def public_names(stub: Class) -> set[str]:
    names = {name for name in stub.methods if not name.startswith("_")} | stub.properties | stub.attributes
    return names.union(*(public_names(CLASSES[base]) for base in stub.bases if base in CLASSES))


def parameter_names(node: Function) -> list[str]:
    given = node.args
    names = [each.arg for each in (*given.posonlyargs, *given.args)]
    names += [given.vararg.arg] if given.vararg else []
    names += [each.arg for each in given.kwonlyargs]
    return names + ([given.kwarg.arg] if given.kwarg else [])


every_class = pytest.mark.parametrize("stub", CLASSES.values(), ids=lambda stub: f"{stub.module}.{stub.name}")


def test_class_names_are_unique_in_the_stubs() -> None:
    # Bases are looked up by name.
    assert sum(isinstance(node, ast.ClassDef) for m in STUBS for node in read_stub(m).body) == len(CLASSES)
    assert len(STUBS) >= 11


@pytest.mark.parametrize("module", STUBS)
def test_classes_and_functions_are_those_of_the_module(module: str) -> None:
    runtime = importlib.import_module(f"sockrpc.{module}")
    described = {name for name, stub in CLASSES.items() if stub.module == module}
    described |= {node.name for where, node in FUNCTIONS if where == module}
    existing = {
        name
        for name, value in vars(runtime).items()
        if getattr(value, "__module__", None) == runtime.__name__ and not name.startswith("_")
    }
    assert described == existing


@every_class
def test_public_attributes_are_those_of_the_class(stub: Class) -> None:
    if stub.is_tuple:
        assert getattr(stub.runtime, "_fields") == tuple(sorted(stub.attributes, key=order_in(stub)))  # noqa: B009
        return
    assert public_names(stub) == {name for name in dir(stub.runtime) if not name.startswith("_")}


def order_in(stub: Class) -> Any:
    text = FILES[f"{stub.module}.pyi"].read_text(encoding="utf-8")
    text = text[text.index(f"class {stub.name}(") :]
    return lambda name: text.index(f" {name}:")


@every_class
def test_methods_are_methods_and_properties_are_not(stub: Class) -> None:
    for name in stub.described_methods():
        assert callable(getattr(stub.runtime, name)), name
    if not stub.is_tuple:
        for name in stub.properties | stub.attributes:
            assert isinstance(inspect.getattr_static(stub.runtime, name), types.GetSetDescriptorType), name


@every_class
def test_coroutine_methods_are_coroutine_methods(stub: Class) -> None:
    for name, node in stub.described_methods().items():
        is_async = inspect.iscoroutinefunction(getattr(stub.runtime, name))
        assert is_async == isinstance(node, ast.AsyncFunctionDef), name


@every_class
def test_parameters_have_the_same_names(stub: Class) -> None:
    for name, node in stub.described_methods().items():
        runtime = inspect.signature(getattr(stub.runtime, name))
        assert list(runtime.parameters) == parameter_names(node), name


@pytest.mark.parametrize(("module", "node"), FUNCTIONS, ids=lambda each: getattr(each, "name", each))
def test_parameters_of_functions_have_the_same_names(module: str, node: Function) -> None:
    function = getattr(importlib.import_module(f"sockrpc.{module}"), node.name)
    assert list(inspect.signature(function).parameters) == parameter_names(node)


@every_class
def test_final_in_the_stub_is_final_at_run_time(stub: Class) -> None:
    if not stub.is_tuple:
        assert stub.final == (not stub.runtime.__flags__ & TPFLAGS_BASETYPE)


@every_class
def test_what_can_not_be_set_is_a_property(stub: Class) -> None:
    # `cdef readonly` is read-only from Python; an annotated name in a stub promises that it can be set.
    text = (SOURCE / f"{stub.module}.pxd").read_text(encoding="utf-8")
    match = re.search(rf"^cdef class {stub.name}\b.*?:\n(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    body = match.group(1) if match else ""
    readonly = set(re.findall(r"^    cdef readonly [\w ]*?(\w+) *(?:#.*)?$", body, re.MULTILINE))
    writable = set(re.findall(r"^    cdef public [\w ]*?(\w+) *(?:#.*)?$", body, re.MULTILINE))
    assert readonly <= stub.properties
    if not stub.is_tuple:
        assert stub.attributes == writable
