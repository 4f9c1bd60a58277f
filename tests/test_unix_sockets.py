"""`serve(uds=...)`: what becomes of the socket's file."""

# A look at the file system blocks nobody here.
# ruff: noqa: ASYNC240

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

import pytest

import sockrpc
import sockrpc.listening
from tests.work import Work

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
            sockrpc.listening.remove_stale_socket(str(path))
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
    monkeypatch.setattr(sockrpc.listening, "AF_UNIX", None)
    with pytest.raises(sockrpc.UsageError, match="no unix sockets"):
        await serve_at(path)
    assert not path.exists()
