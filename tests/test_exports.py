"""What is public: exactly what the API promises, documented, and shipped."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import types
from collections.abc import Iterable
from importlib import resources
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import pytest

import sockrpc

# The names of the API and what each has; a contract.
API: dict[str, set[str]] = {
    "App": {"method", "on", "around", "on_connect", "on_disconnect"},
    "Call": {
        "method",
        "payload",
        "text",
        "id",
        "socket",
        "respond",
        "spawn_and_abort_on_reset",
        "abort_on_reset",
        "wait_reset",
        "is_reset",
        "raise_if_reset",
        "abort_reason",
        "on_abort",
        "metadata",
        "deadline",
        "remaining",
        "resume_from",
        "items",
        "send",
        "fail",
        "commit",
        "peer",
    },
    "Notification": {"event", "payload", "text", "socket"},
    "Socket": {
        "notify",
        "notify_nowait",
        "close",
        "remote_address",
        "request",
        "subprotocol",
        "state",
        "in_flight",
        "metadata",
        "call",
        "start",
        "stream",
        "__aiter__",
        "__anext__",
    },
    "Remote": {"call", "start", "stream"},
    "Handle": {"method", "cancel", "done", "__await__"},
    "Stream": {
        "cursor",
        "send",
        "end",
        "result",
        "cancel",
        "__aiter__",
        "__anext__",
        "__aenter__",
        "__aexit__",
    },
    "Tracked": {"payload", "cursor"},
    "Room": {"join", "leave", "broadcast"},
    "Server": {"sockets", "connections", "close", "wait_closed", "statistics", "serve_forever"},
    "serve": {"__await__", "__aenter__", "__aexit__"},
    "run": set(),
    "connect": {"__await__", "__aenter__", "__aexit__", "__aiter__", "stream"},
    "Client": {
        "call",
        "start",
        "stream",
        "notify",
        "on",
        "status",
        "subprotocol",
        "closing",
        "wait_closing",
        "close",
        "__aenter__",
        "__aexit__",
    },
    "deadline": set(),
    "timeout": set(),
    "Code": {
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    },
    "Outcome": {"PARTIAL", "NOT_STARTED", "COMPLETED", "UNKNOWN"},
    "SockRPCError": set(),
    "UsageError": set(),
    "ProtocolError": set(),
    "ConnectionClosed": set(),
    "ConnectionLost": {"outcome"},
    "RPCError": {"code", "message", "details", "outcome", "received", "retry_after"},
    "DeadlineExceeded": {"code", "message", "details", "outcome", "received", "retry_after"},
    "HandshakeError": set(),
}
# What has come to these beside the contract. A public name is a promise: none comes by accident.
BEYOND_THE_CONTRACT: dict[str, set[str]] = {
    "App": {"on_start", "on_stop"},
    "Client": {"wait_closed", "wait_closing"},
    "connect": {"stream"},
    # Of the base that it shares with Call; a notification has none.
    "Notification": {"id"},
    "Server": {"hurry", "wait_stopping"},
    "Stream": {"aclose"},
    "Socket": {"close_code", "close_reason", "closed_by", "get_extra_info"},
}
SIGNATURES = {
    "App.method": "self, name=None, *, timeout=None, run_to_completion=False, thread=False, "
    "credit_timeout=None",
    "App.on": "self, name=None",
    "Call.respond": "self, payload",
    "Call.spawn_and_abort_on_reset": "self, coroutine",
    "Call.abort_on_reset": "self, coroutine",
    "Call.wait_reset": "self",
    "Call.on_abort": "self, callback, *args",
    "Socket.close": "self, code=1000, reason=''",
    "Socket.notify": "self, event, payload=b''",
    "Socket.notify_nowait": "self, event, payload=b''",
    "Room.broadcast": "self, event, payload=b'', *, exclude=None",
    "Client.call": "self, method, payload=b'', *, items=None, timeout=None, metadata=None",
    "Client.start": "self, method, payload=b'', *, items=None, timeout=None, metadata=None",
    "Client.stream": "self, method, payload=b'', *, items=None, timeout=None, metadata=None, "
    "window_bytes=None, tracked=False",
    "Call.fail": "self, code, message='', details=b''",
    "Call.send": "self, payload, *, cursor=None",
    "Client.notify": "self, event, payload=b''",
    "Client.on": "self, event",
}
# Declarations of C, without code of their own.
DECLARED_ONLY = {"peer.raising", "peer.variables"}
# What an installed package does not have.
SOURCE = Path(__file__).parent.parent / "src" / "sockrpc"
PUBLIC_MODULES = ["sockrpc", "sockrpc.bench", "sockrpc.testing"]


def all_modules() -> list[types.ModuleType]:
    names = [found.name for found in pkgutil.walk_packages(sockrpc.__path__, "sockrpc.")]
    return [sockrpc, *(importlib.import_module(name) for name in names if not name.endswith(".__main__"))]


def is_compiled(module: types.ModuleType) -> bool:
    return str(module.__file__).endswith(tuple(EXTENSION_SUFFIXES))


MODULES = all_modules()
by_name = pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)


# The names


def test_all_is_what_can_be_imported_from_the_package() -> None:
    importable = {
        name
        for name, value in vars(sockrpc).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert importable | {"__version__"} == set(sockrpc.__all__)
    assert len(sockrpc.__all__) == len(set(sockrpc.__all__))


@pytest.mark.parametrize("name", API)
def test_every_name_of_the_api_exists(name: str) -> None:
    assert name in sockrpc.__all__
    missing = [member for member in API[name] if not hasattr(getattr(sockrpc, name), member)]
    assert missing == []


@pytest.mark.parametrize("name", sorted(API.keys() - {"run", "deadline", "timeout"}))
def test_nothing_is_public_that_is_not_named_here(name: str) -> None:
    value = getattr(sockrpc, name)
    foreign = [kind for kind in value.__mro__ if not kind.__module__.startswith("sockrpc")]
    members = {member for member in dir(value) if not member.startswith("_")}
    members -= {member for kind in foreign for member in vars(kind)}
    named = API[name] | BEYOND_THE_CONTRACT.get(name, set())
    assert members == {member for member in named if not member.startswith("_")}


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_every_public_module_exists(name: str) -> None:
    assert importlib.import_module(name).__doc__


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_the_documented_ones(name: str) -> None:
    kind, _, member = name.partition(".")
    signature = inspect.signature(getattr(getattr(sockrpc, kind), member))
    parameters = [each.replace(annotation=inspect.Parameter.empty) for each in signature.parameters.values()]
    assert str(inspect.Signature(parameters)) == f"({SIGNATURES[name]})"


@pytest.mark.parametrize("name", ["Call.respond", "Call.abort_on_reset", "Call.wait_reset"])
def test_coroutine_methods_of_compiled_classes_are_seen_as_such(name: str) -> None:
    kind, _, member = name.partition(".")
    assert inspect.iscoroutinefunction(getattr(getattr(sockrpc, kind), member))


def test_the_errors_are_one_tree() -> None:
    errors = [
        each for each in vars(sockrpc).values() if isinstance(each, type) and issubclass(each, Exception)
    ]
    assert len(errors) >= 7
    for error in errors:
        assert issubclass(error, sockrpc.SockRPCError)
        if error is not sockrpc.DeadlineExceeded:
            assert not issubclass(error, TimeoutError | OSError)
    assert issubclass(sockrpc.DeadlineExceeded, sockrpc.RPCError)
    assert issubclass(sockrpc.DeadlineExceeded, TimeoutError)
    assert not issubclass(sockrpc.ConnectionLost, sockrpc.ConnectionClosed)
    assert not issubclass(sockrpc.ConnectionClosed, sockrpc.ConnectionLost)


@by_name
def test_no_name_hides_a_module(module: types.ModuleType) -> None:
    # At the top, `run` and `connect` are the functions of the files that have their names.
    folder, _, name = module.__name__.rpartition(".")
    if folder not in ("", "sockrpc"):
        assert getattr(importlib.import_module(folder), name) is module


# __all__


@by_name
def test_every_module_says_what_it_is_and_what_is_in_it(module: types.ModuleType) -> None:
    assert module.__doc__
    if not is_compiled(module):
        assert isinstance(module.__all__, list)


@by_name
def test_all_is_truthful(module: types.ModuleType) -> None:
    for name in getattr(module, "__all__", []):
        assert hasattr(module, name), name
        defined_in = getattr(getattr(module, name), "__module__", None)
        if module.__name__ not in PUBLIC_MODULES and isinstance(
            getattr(module, name), type | types.FunctionType
        ):
            assert defined_in == module.__name__, name


def test_what_other_modules_import_is_in_all() -> None:
    unlisted = []
    names = {module.__name__ for module in MODULES}
    for module in MODULES:
        if is_compiled(module):
            continue
        tree = ast.parse(inspect.getsource(module))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("sockrpc."):
                listed = getattr(importlib.import_module(str(node.module)), "__all__", None)
                if listed is not None:
                    unlisted += [
                        f"{node.module}.{each.name}"
                        for each in node.names
                        if each.name not in listed and f"{node.module}.{each.name}" not in names
                    ]
    assert sorted(set(unlisted)) == []


# Documentation


def readonly_fields() -> set[str]:
    """The fields that compiled classes show as they are; these can not have a docstring."""
    texts = [each.read_text(encoding="utf-8") for each in SOURCE.rglob("*.pxd")]
    return {
        name
        for text in texts
        for name in re.findall(r"cdef readonly [\w ]*?(\w+) *(?:#|$)", text, re.MULTILINE)
    }


def undocumented(kind: type) -> list[str]:
    missing = [] if kind.__doc__ else [kind.__name__]
    for ancestor in kind.__mro__:
        if not ancestor.__module__.startswith("sockrpc"):
            continue
        for name, value in vars(ancestor).items():
            if name.startswith("_"):
                continue
            if isinstance(value, types.GetSetDescriptorType) and name in readonly_fields():
                continue
            is_told = callable(value) or isinstance(
                value, types.GetSetDescriptorType | property | classmethod | staticmethod
            )
            if is_told and not inspect.getdoc(value):
                missing.append(f"{ancestor.__name__}.{name}")
    return missing


PUBLIC = {
    f"{name}.{each}": value
    for name in PUBLIC_MODULES
    for each in importlib.import_module(name).__all__
    if callable(value := getattr(importlib.import_module(name), each))
}


@pytest.mark.parametrize("name", PUBLIC)
def test_everything_public_is_documented(name: str) -> None:
    value: Any = PUBLIC[name]
    assert undocumented(value) == [] if isinstance(value, type) else value.__doc__


def test_a_missing_docstring_would_be_found() -> None:
    # The test above, tested: compiled properties and fields look alike.
    assert "payload" in readonly_fields()
    assert "method" not in readonly_fields()
    assert isinstance(vars(sockrpc.Call)["method"], types.GetSetDescriptorType)


# Shipped files


def shipped() -> set[str]:
    """The files of the installed package, by their paths in it."""
    root = Path(sockrpc.__file__).parent
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def modules_of(paths: Iterable[str], suffix: str) -> set[str]:
    return {path.removesuffix(suffix).replace("/", ".") for path in paths if path.endswith(suffix)}


def sources() -> list[str]:
    return [path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*")]


def test_types_are_shipped() -> None:
    assert "py.typed" in shipped()


def test_every_compiled_module_has_a_stub_and_a_declaration() -> None:
    compiled = {module.__name__.partition(".")[2] for module in MODULES if is_compiled(module)}
    assert len(compiled) >= 11
    assert modules_of(shipped(), ".pyi") == compiled
    assert modules_of(sources(), ".pxd") == compiled | DECLARED_ONLY


def test_every_source_of_a_compiled_module_is_compiled() -> None:
    compiled = {module.__name__.partition(".")[2] for module in MODULES if is_compiled(module)}
    assert modules_of(sources(), ".pyx") == compiled


@pytest.mark.parametrize("path", ["js/sockrpc.js", "js/sockrpc.d.ts", "js/package.json"])
def test_the_javascript_client_is_shipped(path: str) -> None:
    assert resources.files("sockrpc").joinpath(path).is_file()
