"""Sockets that a process manager hands over, and what systemd is told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sockrpc
from tests.kit.command import POSIX, Command, run_command
from tests.kit.processes import reserved_port

pytestmark = [POSIX, pytest.mark.outside]

APP = '''
import os, subprocess, sys
import sockrpc

app = sockrpc.App()

@app.method
def environment(call):
    return " ".join(sorted(name for name in os.environ if name.startswith("LISTEN_")))

LOOK = """
import os, stat, sys
for each in map(int, sys.argv[1:]):
    try:
        if stat.S_ISSOCK(os.fstat(each).st_mode):
            print(each)
    except OSError:
        pass
"""

@app.method(thread=True)
def sockets_of_children(call):
    command = [sys.executable, "-c", LOOK, *call.text.split()]
    return subprocess.run(command, stdout=subprocess.PIPE, close_fds=False, check=True).stdout
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "served.py").write_text(APP)
    return tmp_path


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def serve(folder: Path, *flags: str, **options: Any) -> Command:
    return Command("serve", "served:app", *flags, cwd=folder, **options)


# As systemd does it: descriptors from 3 on, and the number of the process that is executed then.
AS_SYSTEMD = """
import os, sys
for i, descriptor in enumerate(sys.argv[1].split(",")):
    os.dup2(int(descriptor), 3 + i)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


def as_systemd(folder: Path, sockets: list[socket.socket], *flags: str, **variables: str) -> Command:
    """The command line with sockets as systemd hands them over."""
    numbers = tuple(each.fileno() for each in sockets)
    # One must not be overwritten before it is moved.
    assert min(numbers) >= 3 + len(numbers)
    return serve(
        folder,
        *flags,
        prefix=(sys.executable, "-c", AS_SYSTEMD, ",".join(map(str, numbers))),
        pass_fds=numbers,
        **({"LISTEN_FDS": str(len(numbers))} | variables),
    )


async def ask(uri: str, method: str, payload: str = "", **options: Any) -> str:
    async with sockrpc.connect(uri, **options) as client:
        return (await client.call(method, payload, timeout=60)).decode()


def uri(listening: socket.socket) -> str:
    return f"ws://127.0.0.1:{listening.getsockname()[1]}/"


def high(made: socket.socket) -> socket.socket:
    """The same socket at a descriptor that is out of the way."""
    import fcntl

    with made:
        return socket.socket(fileno=fcntl.fcntl(made.fileno(), fcntl.F_DUPFD_CLOEXEC, 50))


def test_a_descriptor_is_listened_on(folder: Path, listening: socket.socket) -> None:
    number = listening.fileno()
    with serve(folder, "--fd", str(number), pass_fds=(number,)) as server:
        assert server.line() == uri(listening).replace("ws:", "http:")
        assert asyncio.run(ask(uri(listening), "sockets_of_children", str(number))) == ""
        server.process.terminate()
        assert server.end() == 0
    # It is ours still: the next server goes on with it.
    with serve(folder, "--fd", str(number), pass_fds=(number,)) as server:
        server.line()
        assert asyncio.run(ask(uri(listening), "environment")) == ""


def test_a_unix_socket_by_descriptor(folder: Path) -> None:
    path = folder / "socket"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        number = listening.fileno()
        with serve(folder, "--fd", str(number), pass_fds=(number,)) as server:
            assert server.line() == f"unix:{path}"
            assert asyncio.run(ask("ws://localhost/", "environment", uds=str(path))) == ""
            server.process.terminate()
            assert server.end() == 0
        assert path.is_socket()


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("999", "no socket"),
        ("1", "no socket"),
        ("three", "a number, systemd or systemd:NAME"),
        ("systemd", "LISTEN_PID is not set"),
    ],
)
def test_what_was_not_handed_over_is_used_wrongly(folder: Path, what: str, why: str) -> None:
    done = run_command("serve", "served:app", "--fd", what, cwd=folder)
    assert done.returncode == 2
    assert why in done.stderr.decode()


def test_a_connection_is_no_listening_socket(folder: Path, listening: socket.socket) -> None:
    with socket.create_connection(listening.getsockname()) as line:
        refused = serve(folder, "--fd", str(line.fileno()), pass_fds=(line.fileno(),))
    with refused as server:
        assert server.end() == 2
        assert server.logged("is a connection, not a listening socket")


def test_datagrams_are_used_wrongly(folder: Path) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as line:
        refused = serve(folder, "--fd", str(line.fileno()), pass_fds=(line.fileno(),))
    with refused as server:
        assert server.end() == 2
        assert server.logged("no stream socket")


def test_sockets_of_systemd(folder: Path) -> None:
    with (
        high(socket.create_server(("127.0.0.1", 0))) as one,
        high(socket.create_server(("127.0.0.1", 0))) as two,
        as_systemd(folder, [one, two], "--fd", "systemd") as server,
    ):
        assert server.line() == uri(one).replace("ws:", "http:")
        assert server.line() == uri(two).replace("ws:", "http:")
        for each in (one, two):
            # Children neither find the variables nor hold the sockets.
            assert asyncio.run(ask(uri(each), "environment")) == ""
            assert asyncio.run(ask(uri(each), "sockets_of_children", "3 4")) == ""


def test_sockets_of_systemd_by_name(folder: Path) -> None:
    with (
        high(socket.create_server(("127.0.0.1", 0))) as one,
        high(socket.create_server(("127.0.0.1", 0))) as two,
    ):
        names = {"LISTEN_FDNAMES": "admin:web"}
        with as_systemd(folder, [one, two], "--fd", "systemd:web", **names) as server:
            assert server.line() == uri(two).replace("ws:", "http:")
            assert asyncio.run(ask(uri(two), "environment")) == ""
        with as_systemd(folder, [one, two], "--fd", "systemd:other", **names) as server:
            assert server.end() == 2
            assert server.logged("no socket named 'other', only: admin, web")


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"LISTEN_FDS": "many"}, "are numbers"),
        ({"LISTEN_FDS": "0"}, "LISTEN_FDS is 0"),
        ({"LISTEN_FDNAMES": "one:two"}, "not as many names"),
    ],
)
def test_what_systemd_would_not_say(folder: Path, variables: dict[str, str], why: str) -> None:
    with high(socket.create_server(("127.0.0.1", 0))) as listening:
        refused = as_systemd(folder, [listening], "--fd", "systemd", **variables)
    with refused as server:
        assert server.end() == 2
        assert server.logged(why)


def test_sockets_for_another_process_are_not_taken(folder: Path) -> None:
    done = Command(
        "serve", "served:app", "--fd", "systemd", cwd=folder, LISTEN_PID=str(os.getpid()), LISTEN_FDS="1"
    )
    with done as server:
        assert server.end() == 2
        assert server.logged("a shell in between needs exec")


@pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None, reason="there is no systemd-socket-activate"
)
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_activation_by_systemd_itself(folder: Path, loop: str) -> None:
    """It listens, and becomes the server when the first connection comes, which waits meanwhile."""
    assert shutil.which("systemd-socket-activate")
    with reserved_port() as port:
        address = f"127.0.0.1:{port}"
        # It passes on what it is asked for only; without the last ones a sanitized build does not load.
        passed = ("PYTHONPATH", "LD_PRELOAD", "ASAN_OPTIONS", "UBSAN_OPTIONS")
        names = [part for name in passed if name in os.environ for part in ("-E", name)]
        prefix = ("systemd-socket-activate", "-l", address, *names)
        with serve(folder, "--fd", "systemd", "--loop", loop, prefix=prefix) as server:
            server.wait_log("Listening on")
            # The first connection is what starts it.
            assert asyncio.run(ask(f"ws://{address}/", "environment")) == ""
            assert server.line() == f"http://{address}/"
            server.process.terminate()
            assert server.end() == 0


@contextlib.contextmanager
def manager(address: str) -> Iterator[socket.socket]:
    """What systemd listens on for `Type=notify`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(60)
        listening.bind(address)
        yield listening


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told_when_it_is_ready_and_when_it_stops(folder: Path, abstract: bool) -> None:
    if abstract and sys.platform != "linux":
        pytest.skip("only Linux has abstract addresses")
    name = f"sockrpc-{os.getpid()}" if abstract else str(folder / "notify")
    with manager("\0" + name if abstract else name) as told:
        where = "@" + name if abstract else name
        with serve(folder, "--port", "0", NOTIFY_SOCKET=where) as server:
            server.line()
            assert told.recv(100) == b"READY=1"
            server.process.terminate()
            assert told.recv(100) == b"STOPPING=1"
            assert server.end() == 0


def test_a_manager_that_can_not_be_told_is_no_reason_not_to_serve(folder: Path) -> None:
    with serve(folder, "--port", "0", NOTIFY_SOCKET=str(folder / "nobody")) as server:
        server.line()
        server.wait_log("could not be told READY=1")
        server.process.terminate()
        assert server.end() == 0


def test_reuse_port_lets_another_process_listen_on_the_same_port(folder: Path) -> None:
    if not hasattr(socket, "SO_REUSEPORT"):
        pytest.skip("no SO_REUSEPORT here")
    with reserved_port_to_share() as port:
        flags = ("--port", str(port), "--reuse-port")
        with serve(folder, *flags) as one, serve(folder, *flags) as two:
            assert one.line() == two.line() == f"http://127.0.0.1:{port}/"
            one.process.terminate()
            assert one.end() == 0
            assert asyncio.run(ask(f"ws://127.0.0.1:{port}/", "environment")) == ""


@contextlib.contextmanager
def reserved_port_to_share() -> Iterator[int]:
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]
