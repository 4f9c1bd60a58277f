"""What workers listen on: bound once, held while they change, and let go."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

import sockrpc
from sockrpc.listen import worker_sockets as sharing
from sockrpc.listen.worker_sockets import SHARES_OUT, WorkerSockets
from tests.kit.command import POSIX

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="ports are shared out on Linux only")


def ports(sockets: list[socket.socket]) -> list[int]:
    return [each.getsockname()[1] for each in sockets]


def is_open(sockets: list[socket.socket]) -> bool:
    return all(each.fileno() >= 0 for each in sockets)


def test_every_slot_has_the_same_port() -> None:
    bound = WorkerSockets("127.0.0.1", 0, None, [])
    try:
        first, second = bound.sockets(0), bound.sockets(1)
        assert ports(first) == ports(second)
        assert ports(first) != [0]
        assert (first[0] is second[0]) == (not SHARES_OUT)
        # A successor gets what its predecessor had.
        assert bound.sockets(0) == first
        assert bound.is_ours
    finally:
        bound.close()
    assert not is_open(first)
    assert not is_open(second)


@LINUX
def test_a_slot_that_was_given_up_gets_others_on_the_same_port() -> None:
    bound = WorkerSockets("127.0.0.1", 0, None, [])
    try:
        old = bound.sockets(0)
        port = ports(old)
        bound.release(0)
        assert not is_open(old)
        assert ports(bound.sockets(0)) == port
    finally:
        bound.close()


def test_one_listener_for_all_where_that_is_wanted() -> None:
    bound = WorkerSockets("127.0.0.1", 0, None, [], own_listeners=False)
    try:
        assert bound.sockets(0) == bound.sockets(1)
        bound.release(0)
        assert is_open(bound.sockets(0))
    finally:
        bound.close()


def test_every_address_of_a_name_has_the_same_port() -> None:
    bound = WorkerSockets("localhost", 0, None, [])
    try:
        assert len(set(ports(bound.sockets(0)))) == 1
        assert len(bound.sockets(0)) == len({each.getsockname()[0] for each in bound.sockets(0)})
    finally:
        bound.close()


@POSIX
def test_a_port_on_which_somebody_listens_is_not_taken_unless_it_is_to_be_shared() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f"bind on address .*{port}"):
            WorkerSockets("127.0.0.1", port, None, [])
        bound = WorkerSockets("127.0.0.1", port, None, [], reuse_port=True)
        assert ports(bound.sockets(0)) == [port]
        # Others may hold it: a stop leaves the port as one that is shared.
        assert not bound.is_ours
        bound.close()


@POSIX
def test_the_file_of_a_unix_socket_goes_with_it_unless_it_is_another(tmp_path: Path) -> None:
    path = tmp_path / "here"
    bound = WorkerSockets(None, None, str(path), [])
    assert bound.sockets(0) == bound.sockets(1)
    assert path.is_socket()
    bound.close()
    assert not path.exists()
    bound = WorkerSockets(None, None, str(path), [])
    os.unlink(path)
    path.touch()
    bound.close()
    assert path.exists()
    with pytest.raises(FileExistsError):
        WorkerSockets(None, None, str(path), [])


@pytest.mark.skipif(sys.platform != "linux", reason="abstract names are those of Linux")
def test_an_abstract_name_is_free_when_its_socket_is_closed() -> None:
    name = f"\0sockrpc-{os.getpid()}"
    for _ in range(2):
        bound = WorkerSockets(None, None, name, [])
        assert bound.sockets(0) == bound.sockets(1)
        assert os.fsencode(bound.sockets(0)[0].getsockname()) == name.encode()
        with pytest.raises(OSError, match="in use"):
            WorkerSockets(None, None, name, [])
        bound.remove_socket_file()
        bound.close()


@pytest.mark.parametrize(
    ("name", "what", "options"),
    [
        ("AF_UNIX", "unix sockets", {"uds": "path", "port": None}),
        ("SO_REUSEPORT", "SO_REUSEPORT", {"uds": None, "port": 0, "reuse_port": True}),
    ],
)
def test_what_the_system_does_not_have_is_used_wrongly(
    monkeypatch: pytest.MonkeyPatch, name: str, what: str, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(sharing, name, None)
    with pytest.raises(sockrpc.UsageError, match=f"has no {what}"):
        WorkerSockets("127.0.0.1", sockets=[], **options)


def test_sockets_that_were_handed_over_are_not_ours() -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        bound = WorkerSockets(None, None, None, [given])
        assert bound.sockets(1) == [given]
        assert not bound.is_ours
        bound.close()
