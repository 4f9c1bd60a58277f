"""docs/howto: the programs that the pages show do what the pages say."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme
from websockets.http11 import Request

import sockrpc
from sockrpc.limits import Limits
from tests.kit.command import POSIX, Command
from tests.kit.pages import DOCS
from tests.kit.processes import ROOT, STOPPED, eventually, is_listening, reserved_port
from tests.kit.programs import load
from tests.kit.support import PATIENCE, serving, until
from tests.kit.transcript import Transcript

pytestmark = [pytest.mark.docs, POSIX]

UNITS = ROOT / "examples" / "systemd"


def messages(caplog: pytest.LogCaptureFixture, logger: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == logger]


# undo-on-abort.md


@pytest.mark.runs("examples/undo.py")
async def test_a_booking_whose_call_is_reset_is_undone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    program = load("undo")
    async with serving(program.app) as serve, serve.connect() as client, serve.connect() as other:
        booking = asyncio.create_task(client.call("book", "12A"))
        while await other.call("seats") != b"12A":
            pass
        assert await other.call("book", "12A") == b"taken"
        booking.cancel()
        await until(lambda: messages(caplog, "undo") == ["seat 12A is free again"])
        assert await other.call("seats") == b""


async def test_a_booking_that_was_answered_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    program = load("undo")
    monkeypatch.setattr(program, "PAYMENT_SECONDS", 0)
    async with serving(program.app) as serve:
        async with serve.connect() as client:
            assert await client.call("book", "12A") == b"seat 12A is yours"
        async with serve.connect() as other:
            assert await other.call("seats") == b"12A"


async def test_a_payment_is_completed_after_its_reset(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    program = load("undo")
    monkeypatch.setattr(program, "PAYMENT_SECONDS", 0.3)
    async with serving(program.app) as serve, serve.connect() as client:
        payment = client.start("pay")
        await until(lambda: serve.server.statistics().calls_running == 1)
        assert await payment.cancel() is sockrpc.Outcome.COMPLETED
        assert messages(caplog, "undo") == ["paid, though the call was aborted (reset)"]


# blocking-work.md


@pytest.mark.parametrize("method", ["primes_in_a_thread", "primes_in_a_process"])
async def test_blocking_work_is_answered(method: str) -> None:
    async with serving(load("blocking").app) as serve, serve.connect() as client:
        assert await client.call(method, "1000", timeout=PATIENCE) == b"168"


async def test_a_thread_that_polls_ends_by_a_reset(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serving(load("blocking").app) as serve, serve.connect() as client:
        # Hours of work, if nobody stopped it.
        call = asyncio.create_task(client.call("primes_in_a_thread", str(10**12)))
        await until(lambda: serve.server.statistics().calls_running == 1)
        call.cancel()
        await until(lambda: messages(caplog, "blocking") == ["the thread has ended"])
        await until(lambda: serve.server.statistics().calls_running == 0)


@pytest.mark.runs("examples/blocking.py")
async def test_a_process_is_killed_by_a_reset(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serving(load("blocking").app) as serve, serve.connect() as client:
        call = asyncio.create_task(client.call("primes_in_a_process", str(10**12)))
        await until(lambda: messages(caplog, "blocking"))
        (begun,) = messages(caplog, "blocking")
        pid = int(begun.split()[1])
        call.cancel()
        await until(lambda: messages(caplog, "blocking")[1:] == [f"process {pid} has ended"])
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


# authentication.md and tls.md


def play(page: str, folder: Path) -> Transcript:
    with reserved_port() as port:
        transcript = Transcript(DOCS / "howto" / f"{page}.md", folder, port)
        transcript.play()
    return transcript


@pytest.mark.runs("docs/howto/authentication.md", "examples/authentication.py")
def test_authentication_as_its_page_shows_it(tmp_path: Path) -> None:
    assert len(play("authentication", tmp_path).typed) == 3


@pytest.mark.runs("examples/rights.py")
async def test_a_right_is_asked_for_by_the_decorator() -> None:
    def process_request(socket: sockrpc.Socket, request: Request) -> None:
        socket.state.user = request.headers["User"]

    async with serving(load("rights").app, process_request=process_request) as serve:
        async with serve.connect(headers={"User": "alice"}) as alice:
            assert await alice.call("shut_down") == b"shut down by alice"
        async with serve.connect(headers={"User": "bob"}) as bob:
            with pytest.raises(sockrpc.RPCError, match="PERMISSION_DENIED: shut_down is not for you"):
                await bob.call("shut_down")


def write_certificate(folder: Path) -> None:
    """What the command of the page writes: a certificate that is its own authority's, and its key."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    chain = [*issued.cert_chain_pems, authority.cert_pem]
    (folder / "cert.pem").write_bytes(b"".join(each.bytes() for each in chain))
    (folder / "key.pem").write_bytes(issued.private_key_pem.bytes())


@pytest.mark.runs("docs/howto/tls.md")
def test_tls_as_its_page_shows_it(tmp_path: Path) -> None:
    write_certificate(tmp_path)
    assert len(play("tls", tmp_path).typed) == 3


@pytest.mark.runs("examples/tls.py")
def test_a_renewed_certificate_is_taken_up_by_sighup(tmp_path: Path) -> None:
    write_certificate(tmp_path)
    with reserved_port() as port:
        code = (ROOT / "examples" / "tls.py").read_text("utf-8").replace("3000", str(port))
        (tmp_path / "tls.py").write_text(code, encoding="utf-8")

        def call(authority: str) -> tuple[int, bytes]:
            uri = f"wss://127.0.0.1:{port}/socket"
            with Command("call", "--cafile", authority, uri, "hello", "you", cwd=tmp_path) as done:
                answer = done.rest()
                return done.end(), answer

        with Command("cert.pem", "key.pem", program=("tls.py",), cwd=tmp_path) as server:
            eventually(lambda: is_listening(port) or server.process.poll() is not None)
            shutil.copy(tmp_path / "cert.pem", tmp_path / "old.pem")
            assert call("old.pem") == (0, b"hello, you\n")
            write_certificate(tmp_path)
            server.process.send_signal(signal.SIGHUP)
            eventually(lambda: call("cert.pem") == (0, b"hello, you\n"))
            assert call("old.pem")[0] == 4
            server.process.terminate()
            assert server.end() == STOPPED


# systemd.md


@pytest.mark.runs("examples/systemd/")
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    for unit in UNITS.iterdir():
        text = unit.read_text("utf-8")
        # It asks whether the program is there.
        text = text.replace("/srv/app/.venv/bin/sockrpc", sys.executable)
        (tmp_path / unit.name).write_text(text, encoding="utf-8")

    def verify() -> tuple[int, str]:
        units = [str(tmp_path / unit.name) for unit in UNITS.iterdir()]
        command = ["systemd-analyze", "verify", "--man=no", *units]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        # Of our units only: others of the machine may be at odds with it.
        return done.returncode, "\n".join(line for line in done.stderr.splitlines() if "sockrpc" in line)

    assert verify() == (0, "")
    service = tmp_path / "sockrpc.service"
    service.write_text(service.read_text("utf-8") + "\n[Service]\nRestart=sometimes\n", encoding="utf-8")
    assert "sockrpc.service" in verify()[1]


def test_the_unit_gives_a_stop_more_time_than_it_takes() -> None:
    lines = (UNITS / "sockrpc.service").read_text("utf-8").splitlines()
    (seconds,) = [int(line.partition("=")[2]) for line in lines if line.startswith("TimeoutStopSec=")]
    limits = Limits()
    assert seconds > limits.stop_grace + limits.abort_grace + limits.close_timeout


@pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None, reason="there is no systemd-socket-activate"
)
def test_the_command_of_the_unit_serves_on_the_socket_of_the_unit(tmp_path: Path) -> None:
    lines = (UNITS / "sockrpc.service").read_text("utf-8").splitlines()
    (command,) = [line.partition("=")[2] for line in lines if line.startswith("ExecStart=")]
    _, *arguments = command.split()
    assert f"sockrpc {' '.join(arguments)}" in (DOCS / "howto" / "systemd.md").read_text("utf-8")
    shutil.copy(ROOT / "examples" / "tutorial" / "set_up" / "server.py", tmp_path / "service.py")
    with reserved_port() as port:
        activate = ("systemd-socket-activate", "-l", f"127.0.0.1:{port}", "-E", "PYTHONPATH")
        with Command(*arguments, prefix=activate, cwd=tmp_path) as server:
            # The first connection is what starts it.
            server.wait_log("Listening on")
            with Command("call", f"ws://127.0.0.1:{port}/socket", "hello", "systemd") as call:
                assert (call.rest(), call.end()) == (b"hello, systemd\n", 0)
            server.process.terminate()
            assert server.end() == STOPPED


# from-python-socketio.md and from-grpc-aio.md


@pytest.mark.parametrize("name", ["socketio_server", "grpc_server"])
def test_what_it_was_before_is_python(name: str) -> None:
    file = ROOT / "examples" / "migrating" / f"{name}.py"
    compile(file.read_text("utf-8"), str(file), "exec")


@pytest.mark.runs("examples/migrating/from_socketio.py")
async def test_what_was_a_socketio_server() -> None:
    app = load("migrating/from_socketio").app
    async with serving(app) as serve, serve.connect() as one, serve.connect() as two:
        heard = [client.on("published") for client in (one, two)]
        await one.notify("publish", "news")
        assert [await anext(each) for each in heard] == [b"news", b"news"]
        assert await one.call("search", '{"text": "x"}', timeout=PATIENCE) == b'{"found": "X"}'
        await assert_aborted(serve, one, "search", b'{"text": "x"}')


@pytest.mark.runs("examples/migrating/from_grpc.py")
async def test_what_was_a_grpc_server() -> None:
    async with serving(load("migrating/from_grpc").app) as serve, serve.connect() as client:
        assert await client.call("shop.Shop/Search", "x", timeout=PATIENCE) == b"X"
        with pytest.raises(sockrpc.RPCError, match=r"INVALID_ARGUMENT: what for\?"):
            await client.call("shop.Shop/Search")
        await assert_aborted(serve, client, "shop.Shop/Search", b"x")


async def assert_aborted(serve: Any, client: sockrpc.Client, method: str, payload: bytes) -> None:
    with pytest.raises(TimeoutError):
        await client.call(method, payload, timeout=0.05)

    def aborted() -> int:
        # The clock that comes first decides which.
        return serve.server.statistics().calls_reset + serve.server.statistics().calls_timed_out

    await until(lambda: aborted() == 1)
    assert serve.server.statistics().calls_in_flight == 0
