"""README's programs and its example, run as a reader runs them; its page is in tests/browser."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import sockrpc
from tests.kit.command import POSIX, Command, Served
from tests.kit.processes import ROOT, STOPPED, eventually, is_listening, reserved_port
from tests.kit.readme import block, on_port
from tests.kit.support import PATIENCE

pytestmark = pytest.mark.newest


@pytest.fixture
def port() -> Iterator[int]:
    with reserved_port() as port:
        yield port


def run_program(code: str, port: int, file: Path, *arguments: str) -> Command:
    file.write_text(on_port(code, port), encoding="utf-8")
    return Command(*arguments, program=(str(file),), cwd=file.parent)


def start_server(code: str, port: int, file: Path, *arguments: str) -> Command:
    """A program that serves, once it does."""
    program = run_program(code, port, file, *arguments)
    eventually(lambda: is_listening(port) or program.process.poll() is not None)
    return program


def assert_stops(server: Command) -> None:
    """It stops when it is asked to, and had nothing to say."""
    server.process.terminate()
    assert (server.end(), server.rest(), server.log) == (STOPPED, b"", [])


@pytest.mark.runs_block("README.md", "A first server", "python")
@pytest.mark.runs_block("README.md", "A first client", "python")
def test_the_first_client_calls_the_first_server(tmp_path: Path, port: int) -> None:
    code = block("A first client", "python")
    with start_server(block("A first server", "python"), port, tmp_path / "first.py") as server:
        with run_program(code, port, tmp_path / "client.py") as client:
            printed = client.rest().decode().splitlines()
            assert (client.end(), client.log) == (0, [])
        assert_stops(server)
    said = "the server's task has stopped too"
    error = "INVALID_ARGUMENT: nothing to shout"
    assert printed == ["b'HELLO'", error, "b'1'", "b'hi'", said, "Outcome.PARTIAL"]
    # The reader sees in the comments what is printed.
    printed.remove(said)
    assert re.findall(r"print\(.*\)  # (.*)$", code, re.MULTILINE) == printed


@POSIX
def test_ctrl_c_stops_the_first_server(tmp_path: Path, port: int) -> None:
    with start_server(block("A first server", "python"), port, tmp_path / "first.py") as server:
        server.interrupt()
        assert (server.end(), server.log) == (0, [])


@pytest.mark.runs_block("README.md", "sockrpc", "sh")
@POSIX
def test_ctrl_c_in_a_second_terminal_aborts_the_demo_s_task() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (arguments,) = re.findall(r"^\.venv/demo/bin/sockrpc (call ws://\S+ \S+)$", readme, re.MULTILINE)
    with Served("demo") as demo:
        with Command(*on_port(arguments, demo.port).split()) as call:
            demo.wait_log("task of 127.0.0.1:")
            call.interrupt()
            assert (call.end(), call.rest()) == (130, b"")
        demo.wait_log("the task is aborted (reset)")


@pytest.mark.runs("examples/both_forms.py")
@pytest.mark.parametrize("form", [[], ["socket"]], ids=["app form", "socket form"])
def test_the_example_serves_the_tutorial_in_both_forms(tmp_path: Path, port: int, form: list[str]) -> None:
    code = (ROOT / "examples" / "both_forms.py").read_text(encoding="utf-8")
    with start_server(code, port, tmp_path / "tutorial.py", *form) as server:
        asyncio.run(use_the_tutorial(port))
        assert_stops(server)


@pytest.mark.runs_block("README.md", "sockrpc", "sh")
def test_the_commands_on_the_first_screen_are_targets_of_make() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    first_screen = readme.partition("\n## ")[0]
    names = re.findall(r"^make (\w+)", first_screen, re.MULTILINE)
    assert names == ["demo", "test"]
    assert set(names) <= set(re.findall(r"^(\w+):", makefile, re.MULTILINE))


async def use_the_tutorial(port: int) -> None:
    uri = f"ws://127.0.0.1:{port}/socket"
    async with asyncio.timeout(2 * PATIENCE), sockrpc.connect(uri) as one, sockrpc.connect(uri) as two:
        done = asyncio.create_task(one.call("long_runing_task"))
        with pytest.raises(TimeoutError):
            await one.call("long_runing_task", timeout=0.05)
        assert await one.call("uppercase", "grüße") == "GRÜSSE".encode()
        addresses = [await client.call("myip") for client in (one, two)]
        assert all(re.fullmatch(rb"127\.0\.0\.1:\d+", each) for each in addresses)
        assert addresses[0] != addresses[1]
        pongs = one.on("pong")
        await one.notify("ping", b"\x00\xff")
        assert await anext(pongs) == b"\x00\xff"
        heard = [client.on("message") for client in (one, two)]
        await two.notify("broadcast", "hello")
        assert [await anext(messages) for messages in heard] == [b"hello", b"hello"]
        assert await done == b"done!"
        assert one.status().pending == []
