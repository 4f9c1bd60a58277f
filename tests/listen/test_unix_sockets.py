"""`serve(uds=...)`: what becomes of the socket's file."""

# A look at the file system blocks nobody here.
# ruff: noqa: ASYNC240

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import sys
import threading
from pathlib import Path

import pytest

import sockrpc
import sockrpc.listen.server_sockets
import sockrpc.listen.unix
from sockrpc.listen.unix import check_uds, remove_stale_socket, typed_uds
from sockrpc.logs import JSONFormatter
from tests.kit.support import RawClient, opening, request, until
from tests.kit.work import Work

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no unix sockets here")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "socket"


def serve_at(path: Path) -> sockrpc.serve:
    return sockrpc.serve(Work().app(), uds=str(path))


async def works(path: Path) -> bool:
    async with sockrpc.connect("ws://localhost/", uds=str(path)) as client:
        return await client.call("echo", b"x") == b"x"


async def test_the_socket_file_is_removed_when_the_server_stops(path: Path) -> None:
    for _ in range(2):
        async with serve_at(path):
            assert path.is_socket()
            assert await works(path)
        assert not path.exists()


async def test_a_stale_socket_file_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(path))
    assert path.is_socket()
    async with serve_at(path):
        assert await works(path)
    assert not path.exists()


async def test_a_socket_that_somebody_listens_on_is_left_alone(path: Path) -> None:
    async with serve_at(path):
        with pytest.raises(OSError, match="listens"):
            await serve_at(path)
        assert await works(path)
    assert not path.exists()


def test_a_server_with_a_full_backlog_is_left_alone_and_nobody_waits_for_it(path: Path) -> None:
    refused: list[BaseException] = []

    def probe() -> None:
        try:
            remove_stale_socket(str(path))
        except OSError as error:
            refused.append(error)

    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(str(path))
        listening.listen(0)
        with contextlib.suppress(BlockingIOError):
            for _ in range(100):
                line = stack.enter_context(socket.socket(socket.AF_UNIX))
                line.setblocking(False)
                line.connect(str(path))
        # In a thread, as it must not block the test for ever either.
        thread = threading.Thread(target=probe, daemon=True)
        thread.start()
        thread.join(5)
        assert not thread.is_alive(), "it waits for a server that does not accept"
        assert path.is_socket()
        assert refused


@pytest.mark.parametrize("what", ["file", "directory"])
async def test_what_is_not_a_socket_is_left_alone(what: str, path: Path) -> None:
    if what == "file":
        path.write_text("precious")
    else:
        path.mkdir()
    with pytest.raises(FileExistsError):
        await serve_at(path)
    if what == "file":
        assert path.read_text() == "precious"
    else:
        assert path.is_dir()


async def test_a_socket_file_that_another_server_took_over_is_left_alone(path: Path) -> None:
    first = await serve_at(path)
    path.unlink()
    async with serve_at(path):
        first.close()
        await first.wait_closed()
        assert await works(path)
    assert not path.exists()


async def test_a_socket_file_that_is_gone_already_is_no_error(path: Path) -> None:
    async with serve_at(path):
        path.unlink()


async def test_a_path_that_can_not_be_bound_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        await serve_at(tmp_path / "missing" / "socket")
    with pytest.raises(OSError, match="too long"):
        await serve_at(tmp_path / ("x" * 200))


async def test_the_file_of_a_socket_that_was_handed_over_is_left_alone(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        async with sockrpc.serve(Work().app(), sock=listening.dup()):
            assert await works(path)
        assert path.is_socket()
        async with sockrpc.serve(Work().app(), sock=listening.dup()):
            assert await works(path)


async def test_where_there_are_no_unix_sockets_a_path_is_an_error_of_usage(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockrpc.listen.server_sockets, "AF_UNIX", None)
    with pytest.raises(sockrpc.UsageError, match="no unix sockets"):
        await serve_at(path)
    assert not path.exists()


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="abstract names are those of Linux")


@linux_only
@pytest.mark.parametrize("name", ["\0sockrpc-{pid}", "\0sockrpc/{pid}/é\0@ ", "\0{pid}".ljust(107, "x")])
async def test_an_abstract_socket_is_listened_on_and_leaves_nothing(name: str) -> None:
    uds = name.format(pid=os.getpid())
    for _ in range(2):
        async with sockrpc.serve(Work().app(), uds=uds) as server:
            assert [os.fsencode(each.getsockname()) for each in server.sockets] == [os.fsencode(uds)]
            async with sockrpc.connect("ws://localhost/", uds=uds) as client:
                assert await client.call("echo", b"x") == b"x"
                (socket_,) = server.connections
                assert socket_.get_extra_info("peercred").pid == os.getpid()
            with pytest.raises(OSError, match=r"in use"):
                await sockrpc.serve(Work().app(), uds=uds)
        with pytest.raises(OSError, match=r"refused|No such"):
            await sockrpc.connect("ws://localhost/", uds=uds)


async def test_an_error_of_connecting_names_the_socket(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape(repr(str(path)))):
        await sockrpc.connect("ws://localhost/", uds=str(path))


async def test_a_server_that_does_not_accept_is_an_error_and_not_waited_for(path: Path) -> None:
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(str(path))
        listening.listen(0)
        with contextlib.suppress(BlockingIOError):
            for _ in range(100):
                line = stack.enter_context(socket.socket(socket.AF_UNIX))
                line.setblocking(False)
                line.connect(str(path))
        with pytest.raises(OSError, match=re.escape(repr(str(path)))):
            await sockrpc.connect("ws://localhost/", uds=str(path))


@linux_only
async def test_an_abstract_name_that_is_too_long_is_an_error() -> None:
    with pytest.raises(OSError, match="too long"):
        await sockrpc.serve(Work().app(), uds="\0" + "x" * 108)


@pytest.mark.parametrize("uds", ["", "\0", "a\0b", "/tmp/\0"])
async def test_what_is_no_name_of_a_unix_socket_is_an_error_of_usage(uds: str) -> None:
    with pytest.raises(sockrpc.UsageError, match="uds is the path"):
        sockrpc.serve(Work().app(), uds=uds)
    with pytest.raises(sockrpc.UsageError, match="uds is the path"):
        sockrpc.connect("ws://localhost/", uds=uds)


@pytest.mark.parametrize("platform", ["darwin", "win32", "freebsd14"])
def test_elsewhere_an_abstract_name_is_an_error_of_usage(
    platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockrpc.listen.unix.sys, "platform", platform)
    with pytest.raises(sockrpc.UsageError, match="those of Linux"):
        sockrpc.serve(Work().app(), uds="\0name")


def test_an_abstract_name_does_not_keep_others_from_looking_at_the_calls() -> None:
    with pytest.raises(sockrpc.UsageError, match="path of a file"):
        sockrpc.serve(Work().app(), "127.0.0.1", 0, inspect_path="\0name")


def test_names_are_taken_as_paths_are(path: Path) -> None:
    for each in (path, str(path), os.fsencode(path)):
        assert check_uds(each) == str(path)
    assert check_uds(None) is None


def test_an_abstract_name_is_typed_with_an_at_sign() -> None:
    typed = [None, "", "@", "@name", "./@name", "name@", "/run/socket"]
    assert [typed_uds(each) for each in typed] == [
        None,
        "",
        "\0",
        "\0name",
        "./@name",
        "name@",
        "/run/socket",
    ]


@pytest.mark.parametrize("name", ["", "peer"], ids=["nameless", "bound"])
async def test_the_log_tells_the_path_of_the_peer(
    name: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    app = sockrpc.App()

    @app.method("fail")
    def fail(call: sockrpc.Call) -> None:
        raise LookupError

    line = socket.socket(socket.AF_UNIX)
    if name:
        line.bind(name)
    async with sockrpc.serve(app, uds=str(path)) as server:
        line.connect(str(path))
        raw = RawClient(*await asyncio.open_unix_connection(sock=line))
        await raw.send(opening(), request(1, "fail"))
        await until(lambda: server.statistics().calls_failed)
        (record,) = caplog.records
        assert json.loads(JSONFormatter().format(record))["remote_address"] == name
        assert f"from {name!r} failed" in record.getMessage()
        await raw.close()
