"""Flags of the command line that are given as variables of the environment."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from sockrpc.cli import main, make_parser
from sockrpc.cli.options import variable_of
from tests.kit.command import POSIX, Command, failure, run_main
from tests.kit.flags import commands_of, flags_of

pytestmark = pytest.mark.newest

NOWHERE = "ws://127.0.0.1:1/"
REPOSITORY = Path(__file__).parents[2]


def parse(*arguments: str) -> argparse.Namespace:
    return make_parser().parse_args(arguments)


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ending:
        parse(*arguments)
    assert ending.value.code == 2
    output = capsys.readouterr()
    assert (output.out, output.err.count("\n")) == ("", 1)
    return output.err


@pytest.fixture
def commands() -> dict[str, argparse.ArgumentParser]:
    return commands_of(make_parser())


# A value for each kind of flag, as a variable has it, and what it is then.
EXAMPLES: dict[str, tuple[str, object]] = {
    "fd": ("3, systemd:web", ["3", "systemd:web"]),
    "origin": ("https://a.example,https://b.example", ["https://a.example", "https://b.example"]),
    "header": ("A: 1, 2\nB: 3", ["A: 1, 2", "B: 3"]),
    "page": ("page.html", Path("page.html")),
    "ssl_certfile": ("a.pem", Path("a.pem")),
    "ssl_keyfile": ("b.pem", Path("b.pem")),
    "cafile": ("c.pem", Path("c.pem")),
    "compression": ("deflate", "deflate"),
    "loop": ("asyncio", "asyncio"),
    "log_level": ("ERROR", "ERROR"),
    "log_format": ("json", "json"),
    "protocol": ("sockrpc.v1", "sockrpc.v1"),
    "metadata": ("a=1, 2\nb=3", ["a=1, 2", "b=3"]),
    "hello": ("a=1\nb=3, 4", ["a=1", "b=3, 4"]),
}
TEXTS = {"host", "uds", "path", "metrics_host", "inspect_path", "method"}


def test_every_flag_of_every_command_is_a_variable(
    commands: dict[str, argparse.ArgumentParser], monkeypatch: pytest.MonkeyPatch
) -> None:
    operands = {"serve": ["m:a"], "call": ["u", "m"], "notify": ["u", "e"], "listen": ["u", "e"]}
    operands |= {"stream": ["u", "m"]}
    operands |= {"demo": [], "bench": ["u"], "top": ["p"]}
    count = 0
    for name, parser in commands.items():
        for action in flags_of(parser):
            if not action.option_strings or action.dest == "help":
                continue
            flag = action.option_strings[-1]
            expected: object
            if action.nargs == 0:
                text, expected = "yes", True
            elif action.dest in TEXTS:
                text, expected = "any text", "any text"
            else:
                text, expected = EXAMPLES.get(action.dest, ("7", 7))
            with monkeypatch.context() as patched:
                patched.setenv("SOCKRPC_" + flag.removeprefix("--").replace("-", "_").upper(), text)
                options = vars(parse(name, *operands[name]))
            assert options[action.dest] == expected, flag
            assert type(options[action.dest]) in (type(expected), float), flag
            count += 1
    assert count > 100


def test_a_flag_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PORT": "nonsense",
        "ORIGIN": "https://a.example",
        "MAX_IN_FLIGHT": "5",
        "COMPRESSION": "deflate",
        "JSON": "0",
        "APP": "here:app",
    }.items():
        monkeypatch.setenv(f"SOCKRPC_{name}", value)
    arguments = ["--port", "1", "--origin", "b", "--origin", "c", "--max-in-flight", "6", "--json"]
    options = parse("serve", "there:app", *arguments)
    assert (options.app, options.port, options.origin) == ("there:app", 1, ["b", "c"])
    assert (options.max_in_flight, options.compression, options.json) == (6, "deflate", True)


def test_the_app_is_a_variable_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "MODULE:APP" in complaint(capsys, "serve")
    monkeypatch.setenv("SOCKRPC_APP", "here:app")
    assert parse("serve").app == "here:app"
    assert parse("serve", "--path", "/rpc").app == "here:app"


@pytest.mark.parametrize("text", ["1", "true", "YES", "On"])
def test_what_switches_a_flag_on(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOCKRPC_REUSE_PORT", text)
    assert parse("demo").reuse_port is True


@pytest.mark.parametrize("text", ["0", "False", "no", "off", ""])
def test_what_leaves_a_flag_off(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOCKRPC_REUSE_PORT", text)
    assert parse("demo").reuse_port is False


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOCKRPC_PORT", "")
    monkeypatch.setenv("SOCKRPC_MAX_IN_FLIGHT", "")
    options = parse("demo")
    assert options.port is None
    assert not hasattr(options, "max_in_flight")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], (None, 5, None, None)),
        (["--uds", "here"], (None, None, "here", None)),
        (["--fd", "systemd"], (None, None, None, ["systemd"])),
        # The host is the same way to listen as the port.
        (["--host", "::"], ("::", 5, None, None)),
    ],
)
def test_a_flag_that_says_where_to_listen_wins_over_all_variables_that_do(
    flags: list[str], expected: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOCKRPC_PORT", "5")
    options = parse("demo", *flags)
    assert (options.host, options.port, options.uds, options.fd) == expected


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        # What Kubernetes sets for a Service whose name is sockrpc.
        ("PORT", "tcp://10.0.0.1:3000", "'tcp://10.0.0.1:3000' is not a whole number"),
        ("REUSE_PORT", "maybe", "'maybe' is neither 1 nor 0"),
        ("LOOP", "trio", "'trio' is none of auto, uvloop, asyncio"),
        ("MAX_IN_FLIGHT", "many", "'many' is neither a number nor 'none'"),
        ("MAX_IN_FLIGHT", "0", "max_in_flight is a positive integer, not 0"),
        ("MAX_IN_FLIGHT", "none", "max_in_flight can not be None"),
        ("STOP_GRACE", "nan", "stop_grace is a positive number of seconds"),
    ],
)
def test_a_bad_value_names_the_variable(
    name: str, text: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"SOCKRPC_{name}", text)
    line = complaint(capsys, "demo")
    assert line.startswith(f"sockrpc: SOCKRPC_{name} in the environment: {told}")
    assert line.endswith("; sockrpc demo --help tells more\n")
    # A command that has no such flag does not care.
    assert parse("top", "path").path == "path"


def test_variables_of_the_build_are_no_flags(commands: dict[str, argparse.ArgumentParser]) -> None:
    files = [*(REPOSITORY / "scripts").glob("*.py"), REPOSITORY / "setup.py", REPOSITORY / "Makefile"]
    if not files[-1].exists():
        pytest.skip("the sources of the build are not here")
    used = set(re.findall(r"\bSOCKRPC_[A-Z_]+", " ".join(file.read_text("utf-8") for file in files)))
    assert "SOCKRPC_DEBUG" in used
    variables = {variable_of(action) for parser in commands.values() for action in flags_of(parser)}
    assert not used & variables


def test_limits_in_variables_reach_the_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOCKRPC_OUTPUT_LOW_BYTES", "7")
    # Together they are wrong, so both have come there.
    assert main(["demo", "--output-high-bytes", "6", "--port", "0"]) == 2
    assert "output_low_bytes <= output_high_bytes" in capsys.readouterr().err


@POSIX
def test_a_server_that_is_set_up_by_variables_alone(tmp_path: Path) -> None:
    (tmp_path / "served.py").write_text("import sockrpc\napp = sockrpc.App()\n")
    variables = {"SOCKRPC_APP": "served:app", "SOCKRPC_UDS": "here", "SOCKRPC_LOG_LEVEL": "ERROR"}
    with Command("serve", cwd=tmp_path, **variables) as server:
        assert server.line() == "unix:here"
        server.process.terminate()
        assert (server.end(), server.log) == (0, [])


def test_the_payload_of_a_call_is_no_flag() -> None:
    told = failure(run_main("call", NOWHERE), 2)
    assert told == ("sockrpc: the following arguments are required: METHOD; sockrpc call --help tells more")
