"""Who may import whom: each module only from layers below its own, in Python and in Cython.

Type-checking imports and stubs are exempt: a name in an annotation is no dependency at run time.
"""

from __future__ import annotations

import ast
import re
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

pytestmark = pytest.mark.newest

SOURCE = Path(__file__).parents[1] / "src" / "sockrpc"
PACKAGE = "sockrpc"

# From the bottom up. A module imports from lower lines only, not from its own.
LAYERS: list[list[str]] = [
    [
        "errors",
        "_debug",
        "_statistics",
        "_raising",
        "_signals",
        "_variables",
        "logs",
        "notes",
        "ratelimited",
        "version",
    ],
    ["_masking", "_memory"],
    # Each alone: framing, names, ids, compression, limits, threads know nothing of each other.
    [
        "_websocket",
        "_frames",
        "_names",
        "_dispatch",
        "bodies",
        "compression",
        "limits",
        "threads",
        "executor",
    ],
    ["belonging", "lifetime"],
    # Nor do what URIs, origins and names of sockets are.
    ["uris", "origins", "unix_sockets"],
    ["exchange", "headers", "addresses", "tls"],
    ["accepting", "blocking", "credentials", "endings", "handshake", "hooks"],
    ["client_handshake", "proxies", "redirecting"],
    ["_loop"],
    ["_output"],
    ["_connection"],
    ["_keepalive"],
    ["_service"],
    ["_undo", "_gate", "_work", "signatures"],
    ["_calls", "_notifications"],
    # The two roles do not know each other either, nor does what knows no RPC.
    ["_serving", "_calling", "_messages"],
    ["protocols", "ended", "_broadcast", "listener", "client_opening"],
    ["sockets", "client"],
    ["reconnecting", "freezing"],
    [
        "app",
        "rooms",
        "opening",
        "listening",
        "handover",
        "importing",
        "loops",
        "signals",
        "counting",
        "collector",
    ],
    ["inspection", "options"],
    ["server", "connecting", "sharing"],
    ["worker"],
    ["supervisor"],
    ["workers"],
    ["runner"],
    # The package itself, which shows what is public.
    ["__init__"],
    # What is built on the package, like an application.
    ["prometheus"],
    ["testing.memory", "demo", "pages", "bench.loopback", "bench.verdict", "bench.worker", "bench.example"],
    ["testing.line"],
    ["testing.joined"],
    ["testing", "testing.fixtures"],
    ["flags"],
    ["bench", "bench.engine", "bench.load", "bench.fixtures"],
    ["bench.counts", "bench.selftest", "bench.loading"],
    ["bench.report"],
    ["bench.commands"],
    ["bench.__main__"],
    ["operating", "top"],
    ["cli"],
    ["__main__"],
]
LEVEL = {module: level for level, layer in enumerate(LAYERS) for module in layer}

# What a part must not know (architecture), as far as imports tell.
IO = {"asyncio", "socket", "ssl", "select", "selectors", "threading", "uvloop"}
MUST_NOT_IMPORT: dict[str, set[str]] = {
    "errors": IO | {"logging"},
    "limits": IO | {"logging"},
    "_masking": IO | {"logging"},
    "_memory": IO | {"logging"},
    "_websocket": IO | {"logging"},
    "_frames": IO | {"logging"},
    "_names": IO | {"logging"},
    "_dispatch": IO | {"logging"},
    "bodies": IO | {"logging"},
    "handshake": IO,
    "client_handshake": IO,
    "exchange": IO | {"logging"},
    "headers": IO | {"logging"},
    "redirecting": IO | {"logging"},
    "uris": IO | {"logging"},
    "origins": IO | {"logging"},
    "compression": IO | {"logging"},
    "app": {"socket", "ssl", "struct"},
    "rooms": {"socket", "ssl", "struct"},
    "client": {"socket", "ssl", "struct"},
    "connecting": {"struct"},
    "server": {"struct"},
}
THIRD_PARTY = {"websockets", "uvloop", "prometheus_client"}
# The client's HTTP, its addresses and its proxies, each in the one module that is about it.
OF_ONE_MODULE = {"exchange": {"h11"}, "addresses": {"aiohappyeyeballs"}, "proxies": {"python_socks"}}
# Who imports it has it: tests do.
PYTEST_PLUGINS = {"bench.fixtures", "testing.fixtures"}
# They run in environments that have another sockrpc, or one without `sockrpc.bench`.
SELF_CONTAINED = {"bench.worker": set[str](), "bench.loopback": {"__init__"}, "bench.example": {"__init__"}}


class Imports:
    """What one module imports: modules of the package, and top-level names of all others."""

    def __init__(self) -> None:
        self.own: set[str] = set()
        self.others: set[str] = set()
        self.full: set[str] = set()

    def add(self, module: str, names: list[str]) -> None:
        self.full.add(module)
        top, _, rest = module.partition(".")
        if top != PACKAGE:
            self.others.add(top)
        elif rest:
            self.own.add(rest)
        else:
            # `from sockrpc import name`: a module of that name, or something of the package itself.
            self.own |= {name if name in LEVEL else "__init__" for name in names} or {"__init__"}


def python_imports(text: str) -> Imports:
    found = Imports()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for each in node.orelse:
                visit(each)
            return
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.add(alias.name, [])
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            found.add(str(node.module), [alias.name for alias in node.names])
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(text))
    return found


FROM = re.compile(r"^[ \t]*from[ \t]+([\w.]+)[ \t]+c?import[ \t]+(\((?:[^)]*)\)|[^\n]*)", re.MULTILINE)
IMPORT = re.compile(r"^[ \t]*c?import[ \t]+([\w., \t]+?)[ \t]*(?:#.*)?$", re.MULTILINE)
C_MODULES = {"cython", "cpython", "libc", "libcpp", "posix"}


def cython_imports(text: str) -> Imports:
    found = Imports()
    for module, names in FROM.findall(text):
        assert not module.startswith("."), "relative import"
        found.add(module, re.findall(r"\w+", names))
    for names in IMPORT.findall(text):
        for module in names.split(","):
            found.add(module.split(" as ")[0].strip(), [])
    found.others -= C_MODULES
    return found


def read_imports(path: Path) -> Imports:
    text = path.read_text(encoding="utf-8")
    return python_imports(text) if path.suffix == ".py" else cython_imports(text)


# A hook is read by PyInstaller; it is no module of the package.
FILES = sorted(
    path
    for path in SOURCE.rglob("*")
    if path.suffix in {".py", ".pyx", ".pxd"} and not path.name.startswith("hook-")
)
IMPORTS = {path.relative_to(SOURCE).as_posix(): read_imports(path) for path in FILES}
every_file = pytest.mark.parametrize("name", IMPORTS)


def module_of(name: str) -> str:
    return name.partition(".")[0].replace("/", ".").removesuffix(".__init__")


def graph() -> dict[str, set[str]]:
    """Module to what it imports; a .pyx and its .pxd are one module."""
    edges: dict[str, set[str]] = {}
    for name, imports in IMPORTS.items():
        edges.setdefault(module_of(name), set()).update(imports.own - {module_of(name)})
    return edges


# The rules


def test_every_module_has_its_layer() -> None:
    assert sum(len(layer) for layer in LAYERS) == len(LEVEL), "a module stands in two layers"
    assert {module_of(name) for name in IMPORTS} - set(LEVEL) == set()


@every_file
def test_imports_go_down_only(name: str) -> None:
    module = module_of(name)
    wrong = [
        f"{name} imports {imported}"
        for imported in IMPORTS[name].own - {module}
        if LEVEL[imported] >= LEVEL[module]
    ]
    assert wrong == []


def test_there_are_no_cycles() -> None:
    # Raises CycleError, which names the modules.
    TopologicalSorter(graph()).prepare()


@every_file
def test_nothing_is_imported_but_the_standard_library_and_what_is_named_above(name: str) -> None:
    allowed = THIRD_PARTY | ({"pytest"} if module_of(name) in PYTEST_PLUGINS else set())
    allowed |= OF_ONE_MODULE.get(module_of(name), set())
    assert IMPORTS[name].others - sys.stdlib_module_names - allowed == set()


@pytest.mark.parametrize("module", MUST_NOT_IMPORT)
def test_a_part_does_not_import_what_it_must_not_know(module: str) -> None:
    for name, imports in IMPORTS.items():
        if module_of(name) == module:
            assert imports.others & MUST_NOT_IMPORT[module] == set()


@pytest.mark.parametrize("module", SELF_CONTAINED)
def test_what_runs_beside_another_sockrpc_uses_what_is_public_only(module: str) -> None:
    assert IMPORTS[f"{module.replace('.', '/')}.py"].own <= SELF_CONTAINED[module]


@every_file
def test_only_the_command_line_parses_arguments(name: str) -> None:
    if module_of(name) not in {"cli", "flags", "bench.commands"}:
        assert "argparse" not in IMPORTS[name].others


@every_file
def test_websockets_does_the_opening_handshake_and_compression_and_nothing_else(name: str) -> None:
    of_websockets = {each for each in IMPORTS[name].full if each.partition(".")[0] == "websockets"}
    # Types that stand in our own API, and the reading of URIs.
    allowed = {f"websockets.{each}" for each in ("http11", "datastructures", "exceptions", "uri", "typing")}
    if module_of(name) == "handshake":
        allowed |= {"websockets.server"}
    if module_of(name) == "client_handshake":
        allowed |= {"websockets.client"}
    if module_of(name) == "proxies":
        # The reading of a proxy's URL, and of the environment.
        allowed |= {"websockets.proxy"}
    if module_of(name) == "compression":
        allowed |= {
            f"websockets.{each}" for each in ("extensions", "extensions.permessage_deflate", "frames")
        }
    assert of_websockets <= allowed


def test_the_command_line_uses_nothing_private() -> None:
    assert [name for name in IMPORTS["cli.py"].own if name.startswith("_") and name != "__init__"] == []
    tree = ast.parse((SOURCE / "cli.py").read_text(encoding="utf-8"))
    private = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
    }
    assert private == set()


@every_file
def test_nothing_is_included(name: str) -> None:
    text = (SOURCE / name).read_text(encoding="utf-8")
    assert re.findall(r"^\s*include\s+[\"'].*$", text, re.MULTILINE) == []


@every_file
def test_files_are_short_enough_to_be_read(name: str) -> None:
    lines = len((SOURCE / name).read_text(encoding="utf-8").splitlines())
    assert lines <= (400 if name.endswith(".py") else 500)


# The tests, tested: a rule that reads nothing would never be broken.


def test_the_imports_are_found() -> None:
    edges = graph()
    assert edges["server"] >= {"app", "limits", "opening", "protocols", "_service"}
    assert edges["_calling"] >= {"_connection", "_frames", "_websocket", "errors"}
    assert edges["_connection"] >= {"_output", "_dispatch", "_loop"}
    assert edges["cli"] >= {"__init__", "demo"}
    assert IMPORTS["_output.pxd"].own == {"_loop", "_memory"}
    assert "asyncio" in IMPORTS["_loop.pyx"].others
    assert "uvloop" in IMPORTS["loops.py"].others
    assert "rooms" not in IMPORTS["sockets.py"].own
    assert edges["bench"] == {"bench.loopback"}
    assert edges["bench.commands"] >= {"bench.engine", "bench.report", "errors"}


def test_imports_of_cython_are_understood() -> None:
    text = '''"""From here on, imports."""
cimport cython
import os, sys
from sockrpc._a cimport (
    one, two,  # from sockrpc._wrong
)
from sockrpc import _frames, App
from libc.stdint cimport uint8_t
    import asyncio as loop  # inside a function
'''
    found = cython_imports(text)
    assert found.own == {"_a", "_frames", "__init__"}
    assert found.others == {"os", "sys", "asyncio"}
