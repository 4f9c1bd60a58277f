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

# A file imports its own folder, and what stands to the left of the last `<` before its own place.
ORDER = """
    texts version logs _debug codes < errors < limits _frames < _settings
    < websocket
    < peer < handle stream < calls < remote sockets listener < rooms client
    < listen
    < dial observe app
    < server connect
    < process < run freezing < __init__
    < prometheus demo testing bench < cli < __main__
"""
FLOORS = [floor.split() for floor in ORDER.split("<")]
LEVEL = {place: level for level, floor in enumerate(FLOORS) for place in floor}

# What a part must not know (architecture), as far as imports tell.
IO = {"asyncio", "socket", "ssl", "select", "selectors", "threading", "uvloop"}
MUST_NOT_IMPORT: dict[str, set[str]] = {
    "errors": IO | {"logging"},
    "limits": IO | {"logging"},
    "_settings": IO | {"logging"},
    "_frames": IO | {"logging"},
    "websocket.masking": IO | {"logging"},
    "websocket.buffers": IO | {"logging"},
    "websocket.parser": IO | {"logging"},
    "websocket.liveness": IO | {"logging", "time"},
    "websocket.bodies": IO | {"logging"},
    "websocket.server_handshake": IO,
    "websocket.client_handshake": IO,
    "websocket.exchange": IO | {"logging"},
    "websocket.headers": IO | {"logging"},
    "websocket.uris": IO | {"logging"},
    "websocket.origins": IO | {"logging"},
    "websocket.deflate": IO | {"logging"},
    "peer.names": IO | {"logging"},
    "peer.table": IO | {"logging"},
    "testing.wire": IO | {"logging"},
    "dial.redirects": IO | {"logging"},
    "app": {"socket", "ssl", "struct"},
    "rooms": {"socket", "ssl", "struct"},
    "client": {"socket", "ssl", "struct"},
    "connect": {"struct"},
    "server": {"struct"},
}
THIRD_PARTY = {"websockets", "uvloop", "prometheus_client"}
# The client's HTTP, its addresses and its proxies, each in the one module that is about it.
OF_ONE_MODULE = {
    "websocket.exchange": {"h11"},
    "dial.addresses": {"aiohappyeyeballs"},
    "dial.proxies": {"python_socks"},
}
# Who imports it has it: tests do.
PYTEST_PLUGINS = {"bench.fixtures", "testing.fixtures"}
# They run in environments that have another sockrpc, or one without `sockrpc.bench`.
SELF_CONTAINED = {
    "bench.measuring_process": set[str](),
    "bench.loopback": {"__init__"},
    "bench.example": {"__init__"},
}


def module_of(name: str) -> str:
    return name.partition(".")[0].replace("/", ".").removesuffix(".__init__")


# A hook is read by PyInstaller; it is no module of the package.
FILES = sorted(
    path
    for path in SOURCE.rglob("*")
    if path.suffix in {".py", ".pyx", ".pxd"} and not path.name.startswith("hook-")
)
MODULES = {module_of(path.relative_to(SOURCE).as_posix()) for path in FILES}
FOLDERS = {f"{module.partition('.')[0]}." for module in MODULES if "." in module}


def place_of(module: str) -> str:
    """What it is in the order: its folder, or the module itself at the top."""
    return module.partition(".")[0]


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
        elif f"{rest}." in FOLDERS:
            # `from sockrpc.peer import call`: a module of that name, or something of the folder itself.
            inner = [f"{rest}.{name}" for name in names]
            self.own |= {each if each in MODULES else rest for each in inner} or {rest}
        elif rest:
            self.own.add(rest)
        else:
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


IMPORTS = {path.relative_to(SOURCE).as_posix(): read_imports(path) for path in FILES}
every_file = pytest.mark.parametrize("name", IMPORTS)


def graph() -> dict[str, set[str]]:
    """Module to what it imports; a .pyx and its .pxd are one module."""
    edges: dict[str, set[str]] = {}
    for name, imports in IMPORTS.items():
        edges.setdefault(module_of(name), set()).update(imports.own - {module_of(name)})
    return edges


# The rules


def wrong_imports(name: str, imports: Imports) -> list[str]:
    """Those of a file that do not go to the left."""
    place = place_of(module_of(name))
    return [
        f"{name} imports {imported}"
        for imported in sorted(imports.own)
        if place_of(imported) != place and LEVEL[place_of(imported)] >= LEVEL[place]
    ]


def test_every_folder_and_every_file_at_the_top_has_its_place() -> None:
    assert sum(len(floor) for floor in FLOORS) == len(LEVEL), "something stands in two places"
    assert {place_of(module) for module in MODULES} == set(LEVEL)


@every_file
def test_imports_go_to_the_left_only(name: str) -> None:
    assert wrong_imports(name, IMPORTS[name]) == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("websocket/connection.pxd", "from sockrpc.peer.table cimport RequestTable"),
        ("peer/call.pyx", "from sockrpc.sockets import Socket"),
        ("listen/admission.py", "from sockrpc.server import Server"),
        ("observe/statistics.py", "from sockrpc import app"),
        ("sockets.py", "import sockrpc.rooms"),
        ("server.py", "from sockrpc.process.event_loop import loop_factory"),
        ("process/worker.py", "from sockrpc.cli import main"),
    ],
)
def test_a_planted_import_is_found(name: str, line: str) -> None:
    text = f"{(SOURCE / name).read_text(encoding='utf-8')}\n{line}\n"
    planted = python_imports(text) if name.endswith(".py") else cython_imports(text)
    assert len(wrong_imports(name, planted)) == 1


def test_the_faces_of_compiled_internals_are_for_tests_and_benchmarks() -> None:
    assert [module for module, own in graph().items() if {"testing.books", "testing.wire"} & {*own}] == []


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
    if module_of(name) != "bench.cli" and place_of(module_of(name)) != "cli":
        assert "argparse" not in IMPORTS[name].others


@every_file
def test_websockets_does_the_opening_handshake_and_compression_and_nothing_else(name: str) -> None:
    of_websockets = {each for each in IMPORTS[name].full if each.partition(".")[0] == "websockets"}
    # Types that stand in our own API, and the reading of URIs.
    allowed = {f"websockets.{each}" for each in ("http11", "datastructures", "exceptions", "uri", "typing")}
    if module_of(name) == "websocket.server_handshake":
        allowed |= {"websockets.server"}
    if module_of(name) == "websocket.client_handshake":
        allowed |= {"websockets.client"}
    if module_of(name) == "dial.proxies":
        # The reading of a proxy's URL, and of the environment.
        allowed |= {"websockets.proxy"}
    if module_of(name) == "websocket.deflate":
        allowed |= {
            f"websockets.{each}" for each in ("extensions", "extensions.permessage_deflate", "frames")
        }
    assert of_websockets <= allowed


@pytest.mark.parametrize("name", [name for name in IMPORTS if name.startswith("cli/")])
def test_the_command_line_uses_nothing_private(name: str) -> None:
    assert [each for each in IMPORTS[name].own if each.startswith("_") and each != "__init__"] == []
    tree = ast.parse((SOURCE / name).read_text(encoding="utf-8"))
    private = {
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
    }
    # Variables of the environment are checked one by one, which no public name does.
    assert {each for each in private if not each.startswith("self._")} <= {"Limits._check"}


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
    assert edges["server"] >= {"app", "limits", "listen.admission", "peer.peer", "peer.service"}
    assert edges["peer.outgoing"] >= {
        "websocket.connection",
        "_frames",
        "peer.table",
        "errors",
    }
    assert edges["websocket.connection"] >= {"websocket.input", "websocket.loop"}
    assert edges["cli"] >= {"__init__", "cli.options", "cli.serve"}
    assert edges["testing.wire"] >= {"_frames", "peer.table", "websocket.parser"}
    assert IMPORTS["websocket/output.pxd"].own == {"_settings", "websocket.loop", "websocket.buffers"}
    assert "asyncio" in IMPORTS["websocket/loop.pyx"].others
    assert "uvloop" in IMPORTS["process/event_loop.py"].others
    assert edges["bench"] == {"bench.loopback"}
    assert edges["bench.cli"] >= {"bench.comparison", "bench.report", "errors"}
    assert edges["freezing"] >= {"peer.call", "websocket.parser"}


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
