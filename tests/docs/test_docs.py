"""docs/reference: everything public, limits with defaults, every flag, and nothing that is not there."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

import sockrpc
import sockrpc.bench
import sockrpc.logs
import sockrpc.prometheus
import sockrpc.testing
from sockrpc import cli
from sockrpc.cli import failing
from sockrpc.cli.client import DEFAULT_TIMEOUT
from sockrpc.limits import LIMITS, Limit
from tests.kit.flags import commands_of, flags_of
from tests.kit.pages import blocks

pytestmark = pytest.mark.newest

FOLDER = Path(__file__).parents[2] / "docs" / "reference"
PAGES = ("index", "server", "cancellation", "client", "compression", "errors", "limits", "command-line")
# One text, whose sections are the pages.
TEXT = "\n".join(
    re.sub("^#", "##", (FOLDER / f"{page}.md").read_text("utf-8"), flags=re.MULTILINE) for page in PAGES
)
# What is code in it: `spans`, and blocks between fences.
CODE = "\n".join(re.findall(r"```.*?```|`[^`]+`", TEXT, re.DOTALL))

UNITS = {"": 1, "KiB": 1024, "MiB": 1024**2, "s": 1}

CLASSES = [
    sockrpc.App,
    sockrpc.Call,
    sockrpc.Client,
    sockrpc.Code,
    sockrpc.DeadlineExceeded,
    sockrpc.Handle,
    sockrpc.Histogram,
    sockrpc.Listener,
    sockrpc.MethodStatistics,
    sockrpc.Notification,
    sockrpc.Outcome,
    sockrpc.RPCError,
    sockrpc.Remote,
    sockrpc.ResumingStream,
    sockrpc.Room,
    sockrpc.Server,
    sockrpc.Socket,
    sockrpc.Statistics,
    sockrpc.Status,
    sockrpc.Stream,
    sockrpc.Tracked,
    sockrpc.ConnectionClosed,
    sockrpc.ConnectionLost,
    sockrpc.HandshakeError,
    sockrpc.ProtocolError,
]
# What is inherited from a tuple, an enumeration or an exception is told by them.
INHERITED = set(dir(tuple)) | set(dir(TimeoutError)) | set(dir(int)) | {"name", "value"}


def is_named(name: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", CODE) is not None


def members(owner: type) -> list[str]:
    return [name for name in dir(owner) if not name.startswith("_") and name not in INHERITED]


@pytest.mark.parametrize("name", sockrpc.__all__)
def test_each_public_name_is_named(name: str) -> None:
    assert is_named(name) or is_named(f"sockrpc.{name}")


@pytest.mark.parametrize("owner", CLASSES, ids=lambda owner: owner.__name__)
def test_each_public_member_is_named_in_the_section_of_its_class(owner: type) -> None:
    sections = re.split(r"^#+ ", TEXT, flags=re.MULTILINE)
    about = "\n".join(each for each in sections if f"`{owner.__name__}`" in each)
    # A notification has no id; it is there because calls and notifications share a base.
    names = set(members(owner)) - ({"id"} if owner is sockrpc.Notification else set())
    missing = [name for name in sorted(names) if not re.search(rf"`[^`]*\b{name}\b[^`]*`", about)]
    assert not missing


def test_every_class_and_error_is_looked_at() -> None:
    public = {each for each in vars(sockrpc).values() if inspect.isclass(each)}
    left = public - set(CLASSES) - {sockrpc.serve, sockrpc.connect}
    assert [each.__name__ for each in left if members(each)] == []


@pytest.mark.parametrize(
    "function", [sockrpc.serve, sockrpc.run, sockrpc.connect], ids=lambda each: each.__name__
)
def test_each_argument_is_named(function: object) -> None:
    assert callable(function)
    parameters = inspect.signature(function).parameters
    names = [name for name, each in parameters.items() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    assert [name for name in names if not is_named(name)] == []


@pytest.mark.parametrize(
    "method",
    [
        sockrpc.App.method,
        sockrpc.App.on,
        sockrpc.Client.call,
        sockrpc.Client.start,
        sockrpc.Client.stream,
        sockrpc.Room.broadcast,
    ],
)
def test_each_argument_of_a_method_is_named(method: object) -> None:
    assert callable(method)
    names = list(inspect.signature(method).parameters)[1:]
    assert [name for name in names if not is_named(name)] == []


def test_nothing_is_named_that_is_not_there() -> None:
    owners = {
        "app": sockrpc.App,
        "call": sockrpc.Call,
        "client": sockrpc.Client,
        "handle": sockrpc.Handle,
        "listener": sockrpc.Listener,
        "room": sockrpc.Room,
        "server": sockrpc.Server,
        "socket": sockrpc.Socket,
        "stream": sockrpc.Stream,
        "sockrpc": sockrpc,
    }
    # The protocol's name looks like one of them.
    for owner, name in re.findall(rf"(?<![/\w])({'|'.join(owners)})\.(?!v1\b)(\w+)", CODE):
        assert hasattr(owners[owner], name), f"{owner}.{name}"


def limit_rows() -> dict[str, list[str]]:
    """The cells of each limit's row: who has it, its default, what happens at it."""
    table = TEXT.partition("## Limits")[2].partition("\n## ")[0]
    return {
        name: [cell.strip() for cell in rest.split("|")[:3]]
        for name, rest in re.findall(r"^\| `(\w+)` \|(.*)$", table, re.MULTILINE)
    }


def test_the_table_of_limits_is_complete_and_in_order() -> None:
    assert list(limit_rows()) == list(LIMITS)


@pytest.mark.parametrize("limit", LIMITS.values(), ids=lambda limit: limit.name)
def test_each_limit_has_its_default_and_its_sides(limit: Limit) -> None:
    sides, default, at_it = limit_rows()[limit.name]
    assert sides.split() == [{"server": "S", "client": "C"}[side] for side in limit.sides]
    assert at_it
    if limit.default is None:
        assert default == ("from the system" if limit.name == "max_connections" else "none")
        return
    of_sides = dict(re.findall(r"([^,(]+) \(([SC])\)", default)) or {default: "SC"}
    assert len(of_sides) == (1 if limit.of_client is None else 2)
    for value, letters in of_sides.items():
        number, _, unit = value.strip().replace(",", "").partition(" ")
        assert {float(number) * UNITS[unit]} == {
            limit.default_of(side) for side in limit.sides if side[0].upper() in letters
        }
        assert {"": "", "s": "s"}.get(unit, "bytes") == limit.unit


def test_which_limits_may_be_none_or_zero() -> None:
    table, _, _ = TEXT.partition("## Limits")[2].partition("\n## Command line")
    (may_be_none,) = re.findall(r"\. ((?:`\w+`(?:,\s+|\s+and\s+)?)+)\s+may be None", table)
    (may_be_zero,) = re.findall(r"\. ((?:`\w+`(?:,\s+|\s+and\s+)?)+)\s+may be 0", table)
    of_rows = [limit.name for limit in LIMITS.values() if limit.may_be_none]
    assert sorted(re.findall(r"\w+(?=`)", may_be_none)) == sorted(of_rows)
    of_rows = [limit.name for limit in LIMITS.values() if limit.may_be_zero]
    assert sorted(re.findall(r"\w+(?=`)", may_be_zero)) == sorted(of_rows)


def test_each_command_and_each_flag_is_named() -> None:
    section = TEXT.partition("## Command line")[2]
    limits = {"--" + name.replace("_", "-") for name in LIMITS}
    flags: dict[str, set[str]] = {}
    commands = []
    for name, parser in commands_of(cli.make_parser()).items():
        commands.append(name)
        assert f"`sockrpc {name}" in section
        for action in flags_of(parser):
            for flag in action.option_strings:
                if flag.startswith("--") and flag != "--help" and flag not in limits:
                    flags.setdefault(flag, set()).add(name)
    documented: dict[str, set[str]] = {}
    for cell, of in re.findall(r"^\| (`--[^|]*) \| ([^|]*) \|", section, re.MULTILINE):
        for flag in re.findall(r"--[\w-]+", cell):
            documented[flag] = set(commands) if of == "all" else set(of.split(", "))
    assert documented == flags


def test_the_help_of_each_command_is_shown() -> None:
    shown = [each.argument for each in blocks(FOLDER / "command-line.md") if each.directive == "command-help"]
    assert shown == ["", *(name for name, _ in commands_of(cli.make_parser()).items())]


def test_the_exit_codes() -> None:
    section = " ".join(TEXT.partition("The exit codes are ")[2].split())
    codes = [0, failing.EXIT_FAILED, failing.EXIT_USAGE, failing.EXIT_RPC_ERROR, failing.EXIT_NO_CONNECTION]
    codes += [failing.EXIT_TIMED_OUT, failing.EXIT_INTERRUPTED]
    assert [int(part.split()[0]) for part in section.split("; ")] == codes
    assert f"{DEFAULT_TIMEOUT:g} by default" in TEXT


def test_the_errors_and_their_attributes() -> None:
    table = TEXT.partition("## Errors")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| ?(.*) \|$", table, re.MULTILINE))
    errors = {
        name: each
        for name, each in vars(sockrpc).items()
        if inspect.isclass(each) and issubclass(each, sockrpc.SockRPCError)
    }
    assert set(rows) == set(errors)
    for name, each in errors.items():
        arguments = inspect.signature(each.__init__).parameters if "__init__" in dir_of(each) else {}
        assert set(re.findall(r"`(\w+)`", rows[name])) == set(arguments) - {"self"}, name


def dir_of(error: type[sockrpc.SockRPCError]) -> set[str]:
    """What an error and those of ours that it derives from define."""
    return {name for each in error.__mro__ if each.__module__ == "sockrpc.errors" for name in vars(each)}


def test_the_python_in_it_is_python() -> None:
    code = [
        block.code for page in PAGES for block in blocks(FOLDER / f"{page}.md") if block.language == "python"
    ]
    assert code
    for each in code:
        compile(each, "docs/reference", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
