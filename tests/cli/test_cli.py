"""The command line: its commands, its flags and limits, and what it says when it is used wrongly."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import sockrpc
from sockrpc.cli import main
from sockrpc.limits import LIMITS
from tests.kit.command import PATIENCE, POSIX, Command, failure, run_command, run_main

# The limits that have a default of their own; one that is None would be the system's.
WITH_DEFAULT = [limit for limit in LIMITS.values() if limit.default is not None]
SERVER_LIMITS = {limit.name: limit.default for limit in WITH_DEFAULT if "server" in limit.sides}
# Who has an answer from a command does not wait long for a server that does not close.
CLIENT_LIMITS = {
    limit.name: limit.default_of("client") for limit in WITH_DEFAULT if "client" in limit.sides
} | {"close_timeout": 0.5}
OPTIONAL_LIMITS = {limit.name for limit in LIMITS.values() if limit.may_be_none}

# Nobody listens there: an attempt to connect would fail, with another exit code.
NOWHERE = "ws://127.0.0.1:1/socket"
COMMANDS = {
    "serve": (["serve", "sockrpc.demo:make_app"], SERVER_LIMITS),
    "demo": (["demo"], SERVER_LIMITS),
    "call": (["call", NOWHERE, "method"], CLIENT_LIMITS),
    "stream": (["stream", NOWHERE, "method"], CLIENT_LIMITS),
    "notify": (["notify", NOWHERE, "event"], CLIENT_LIMITS),
    "listen": (["listen", NOWHERE, "event"], CLIENT_LIMITS),
}


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def test_version() -> None:
    done = run_command("--version")
    assert (done.returncode, done.stdout.decode().split()) == (0, ["sockrpc", sockrpc.__version__])


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["demo", "--nonsense"], ["call", NOWHERE]], ids=str)
def test_a_wrong_command_line_is_told_in_one_line_which_says_where_help_is(arguments: list[str]) -> None:
    told = failure((run_command if arguments else run_main)(*arguments), 2)
    command = " ".join(["sockrpc", *arguments[:1]]) if arguments[:1] in (["demo"], ["call"]) else "sockrpc"
    assert told.endswith(f"; {command} --help tells more")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_each_limit_with_its_default_and_the_exit_codes(name: str) -> None:
    done = (run_command if name == "demo" else run_main)(name, "--help")
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode()
    limits = COMMANDS[name][1]
    for limit, default in limits.items():
        found = re.search(rf"^ +{flag(limit)} N\s+\((\S+)( s)?\)$", text, re.MULTILINE)
        assert found is not None, limit
        assert bool(found[2]) == (LIMITS[limit].unit == "s"), limit
        assert float(found[1]) == default, limit
    others = set(SERVER_LIMITS | CLIENT_LIMITS) - set(limits)
    assert not [limit for limit in others if flag(limit) in text]
    assert ("--max-connections" in text) == (limits is SERVER_LIMITS)
    assert re.search(r"exit codes: 0 .*\b1 .*\b2 .*\b3 .*\b4 .*\b124 .*\b130 ", text, re.DOTALL)


@pytest.mark.parametrize(
    ("name", "limit"),
    [(name, limit) for name, (_, limits) in COMMANDS.items() for limit in limits if name != "serve"]
    + [("demo", "max_connections")],
)
def test_each_limit_reaches_the_server_or_the_client(
    name: str, limit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, as each would take half a second in one of its own."""
    arguments = COMMANDS[name][0]
    assert main([*arguments, flag(limit), "-1"]) == 2
    assert capsys.readouterr().err.startswith(f"sockrpc: {limit} is a positive ")
    if limit not in OPTIONAL_LIMITS:
        assert main([*arguments, flag(limit), "none"]) == 2
        assert capsys.readouterr().err == f"sockrpc: {limit} can not be None\n"


@pytest.mark.parametrize("limit", sorted(OPTIONAL_LIMITS))
def test_none_switches_a_limit_off_where_that_is_allowed(
    limit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # Another mistake ends the command once all limits were accepted.
    assert main(["demo", flag(limit), "none", "--port", "0", "--uds", "both"]) == 2
    assert limit not in capsys.readouterr().err


def test_a_limit_that_is_no_number_is_told() -> None:
    told = failure(run_command("demo", "--max-in-flight", "many"), 2)
    assert "argument --max-in-flight: 'many' is neither a number nor 'none'" in told


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("module", "'module' is not MODULE:APP, such as server:app"),
        ("module:", "'module:' is not MODULE:APP, such as server:app"),
        (":app", "':app' is not MODULE:APP, such as server:app"),
        (".module:app", "there is no module '.module'"),
        ("missing:app", "there is no module 'missing'"),
        ("module.py:app", "there is no module 'module.py'; it is named without .py"),
        ("missing.part:app", "there is no module 'missing.part'"),
        ("module.part:app", "there is no module 'module.part'"),
        ("module:missing", "module 'module' (FILE) has no 'missing'"),
        ("module:number.missing", "module 'module' (FILE) has no 'number.missing'"),
        ("module:number", "serve takes an App or a coroutine function of one socket, not 42"),
    ],
)
def test_an_app_that_can_not_be_found_is_told_in_one_line(name: str, told: str, tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("number = 42\n")
    # Links of the temporary folder are followed, or not, as the system likes.
    shown = failure(run_command("serve", name, cwd=tmp_path), 2).replace(str(module.resolve()), "FILE")
    assert shown.replace(str(module), "FILE") == f"sockrpc: {told}"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["demo", "--ssl-keyfile", "key.pem"], "--ssl-keyfile needs --ssl-certfile"),
        (
            ["demo", "--port", "0", "--uds", "path"],
            "one of: --host and --port, --uds, --fd",
        ),
        (["serve", "sockrpc.demo:App", "--page", "missing.html"], "missing.html is not a file"),
        (["call", NOWHERE, "method", "--timeout", "0"], "--timeout: '0' is not a positive number of seconds"),
        (["call", "http://127.0.0.1/", "method"], "valid URI"),
        (["call", "ws://127.0.0.1:99999/", "method"], "valid URI"),
        (
            ["call", NOWHERE, "method", "--header", "no colon"],
            "a --header is NAME: VALUE; one",
        ),
        (["call", "ws://[::1/", "method"], "valid URI"),
        (
            ["call", NOWHERE, "method", "--metadata", "secret"],
            "a --metadata is KEY=VALUE; one",
        ),
        (["stream", NOWHERE, "method", "--metadata", "a=1", "--metadata", "a=2"], "--metadata has 'a' twice"),
        (["call", NOWHERE, "method", "--metadata", "A=1"], "a key of metadata has characters of a-z"),
        (["listen", NOWHERE, "event", "--hello", "secret"], "a --hello is KEY=VALUE; one"),
        (["call", NOWHERE, "method", "-", "--items"], "either the payload or, with --items, its items"),
        (["notify", NOWHERE, "event", "--protocol", "v2"], "--protocol: invalid choice: 'v2'"),
        (
            ["stream", NOWHERE, "method", "--timeout", "0"],
            "--timeout: '0' is not a positive number of seconds",
        ),
        (["call", NOWHERE, "method", "--timeout", "nan"], "--timeout: 'nan' is not a positive number"),
        (["call", NOWHERE, "method", "--timeout", "inf"], "--timeout: 'inf' is not a positive number"),
        (["call", NOWHERE, "method", "--timeout=-1"], "--timeout: '-1' is not a positive number"),
        (["call", NOWHERE, "method", "--timeout", "soon"], "--timeout: 'soon' is not a positive number"),
        (["demo", "--stop-grace", "nan"], "stop_grace is a positive number of seconds or 0"),
        (["top", "path", "--interval", "nan"], "--interval: 'nan' is not a positive number"),
        (["demo", "--port", "70000", "--loop", "asyncio"], "70000"),
        (["notify", "nowhere", "event"], "'nowhere' is not a valid URI: scheme isn't ws or wss"),
        (["listen", "nowhere", "event"], "valid URI"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_other_mistakes_are_told_in_one_line(arguments: list[str], told: str, tmp_path: Path) -> None:
    assert told in failure(run_main(*arguments, cwd=tmp_path), 2)


@pytest.mark.parametrize("name", ["call", "stream", "notify", "listen"])
def test_a_refused_connection_is_told_in_one_line(name: str) -> None:
    with socket.socket() as unheard:
        # Bound, so that nobody else can take the port; not listening.
        unheard.bind(("127.0.0.1", 0))
        port = unheard.getsockname()[1]
        told = failure(run_main(name, f"ws://127.0.0.1:{port}/socket", "name"), 4)
    assert told.startswith("sockrpc: ConnectionRefusedError: ")
    assert str(port) in told


def test_a_port_that_is_taken_is_told_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        told = failure(run_command("demo", "--port", str(taken.getsockname()[1])), 1)
    assert "address already in use" in told.lower()
    assert told.endswith(" (--port N chooses another, --port 0 any free one)")


def test_a_missing_certificate_is_told_in_one_line(tmp_path: Path) -> None:
    told = failure(run_command("demo", "--port", "0", "--ssl-certfile", "missing.pem", cwd=tmp_path), 1)
    assert told.startswith("sockrpc: FileNotFoundError: ")
    assert told.endswith(" (--ssl-certfile missing.pem)")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["call", "ws://name.invalid/", "method"], "(ws://name.invalid:80/)"),
        (["bench", "ws://name.invalid/"], "(ws://name.invalid:80/)"),
        (["bench", NOWHERE], f"({NOWHERE})"),
        (["call", NOWHERE.replace("//", "//me:secret@") + "?secret", "method"], f"({NOWHERE})"),
        (["call", "wss://127.0.0.1:1/", "method", "--cafile", "missing.pem"], "(--cafile missing.pem)"),
        (["call", "wss://127.0.0.1:1/", "method", "--cafile", "text"], "(--cafile text)"),
        (
            ["demo", "--ssl-certfile", "text", "--ssl-keyfile", "key"],
            "(--ssl-certfile text, --ssl-keyfile key)",
        ),
        (["demo", "--host", "name.invalid"], "(--host name.invalid)"),
        pytest.param(["call", NOWHERE, "method", "--uds", "missing"], "'missing'", marks=POSIX),
        pytest.param(["notify", NOWHERE, "event", "--uds", "stale"], "'stale'", marks=POSIX),
        pytest.param(["demo", "--uds", "missing/socket"], "(missing/socket)", marks=POSIX),
        pytest.param(["demo", "--uds", "x" * 200], f"({'x' * 200})", marks=POSIX),
        pytest.param(
            ["demo", "--port", "0", "--inspect-path", "missing/socket", "--log-level", "ERROR"],
            "(inspect_path missing/socket)",
            marks=POSIX,
        ),
        pytest.param(["top", "stale"], "(stale)", marks=POSIX),
        pytest.param(["top", "x" * 200], f"({'x' * 200})", marks=POSIX),
    ],
)
def test_an_error_of_the_system_names_what_it_is_about(
    arguments: list[str], named: str, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("no certificate\n")
    if hasattr(socket, "AF_UNIX"):
        with socket.socket(socket.AF_UNIX) as left, contextlib.chdir(tmp_path):
            left.bind("stale")
    # What the command could not reach is no connection; a file or an address of its own is another failure.
    code = 1 if arguments[0] == "demo" or "--cafile" in arguments else 4
    told = failure(run_main(*arguments, cwd=tmp_path), code)
    assert told.endswith(" " + named)
    assert told.count(named.strip("()")) == 1


def test_a_port_for_metrics_that_is_taken_names_its_flag() -> None:
    pytest.importorskip("prometheus_client")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run_command("demo", "--port", "0", "--metrics-port", port, "--log-level", "ERROR")
    told = failure(done, 1)
    assert "in use" in told
    assert told.endswith(f" (--metrics-port {port}, --metrics-host 127.0.0.1)")


@POSIX
def test_a_standard_stream_that_is_closed_is_told_in_one_line() -> None:
    with Command("demo", "--port", "0") as server:
        uri = server.line().replace("http", "ws") + "socket"
        for arguments, stream in (("-", "input <&-"), ("text", "output >&-")):
            name, redirection = stream.split()
            command = f'exec "$0" -W error -m sockrpc call {uri} uppercase {arguments} {redirection}'
            done = subprocess.run(
                ["/bin/sh", "-c", command, sys.executable],
                capture_output=True,
                timeout=PATIENCE,
                check=False,
            )
            assert failure(done, 1) == f"sockrpc: OSError: [Errno 9] standard {name} is closed"


def test_a_peer_can_not_write_to_the_terminal_through_a_complaint() -> None:
    body = b"\x1b[31mred\r\nsecond line\x07"
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        Command("call", f"ws://127.0.0.1:{listening.getsockname()[1]}/", "method") as calling,
    ):
        line, _ = listening.accept()
        with line:
            while not line.recv(65536).endswith(b"\r\n\r\n"):
                pass
            line.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        assert calling.end() == 4
        assert calling.log == ["sockrpc: HandshakeError: HTTP 403: \\x1b[31mred\\r\\nsecond line\\x07"]
