"""What a stop means for sockets that other servers listen on as well."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

import sockrpc
import sockrpc.listen.server_sockets
from tests.kit.latecomers import NEVER, is_let_in_and_told, line_to, queue_up, raw_over
from tests.kit.support import PATIENCE, opening, request
from tests.kit.work import Work

# Sockets that others hold too


@contextlib.asynccontextmanager
async def two_servers(app: Any) -> AsyncIterator[tuple[sockrpc.Server, sockrpc.Server, int]]:
    """Two servers of one listening socket, as before and after a restart, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        async with sockrpc.serve(app, sock=listening.dup(), stop_grace=NEVER) as old:
            yield old, await sockrpc.serve(app, sock=listening.dup()), port


async def test_a_socket_that_was_handed_over_goes_on_elsewhere_with_all_that_it_holds() -> None:
    async with two_servers(Work().app()) as (old, new, port), new:
        queued = queue_up(port, 20, opening() + request(1, "echo", b"x"))
        old.close()
        for each in queued:
            async with await raw_over(each) as raw:
                await raw.wait(raw.reader.readuntil(b"\r\n\r\n"))
                assert await raw.answer() == (1, b"x")
        await old.wait_closed()
        async with sockrpc.connect(f"ws://127.0.0.1:{port}/") as client:
            assert await client.call("echo", b"y") == b"y"


async def test_it_listens_on_several_sockets(tmp_path_factory: pytest.TempPathFactory) -> None:
    listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    async with sockrpc.serve(Work().app(), sock=listening) as server:
        ports = [each.getsockname()[1] for each in server.sockets]
        assert len(set(ports)) == 2
        for port in ports:
            async with sockrpc.connect(f"ws://127.0.0.1:{port}/") as client:
                assert await client.call("echo", b"x") == b"x"
    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()


async def test_if_one_of_several_can_not_be_listened_on_none_is() -> None:
    good = socket.create_server(("127.0.0.1", 0))
    port = good.getsockname()[1]
    refused = pytest.raises(OSError, match=r"(?i)invalid argument|not supported")
    with socket.create_connection(("127.0.0.1", port)) as connected, refused:
        await sockrpc.serve(Work().app(), sock=[good, connected])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port)).close()


def test_what_is_no_stream_socket_is_a_usage_error() -> None:
    with (
        socket.socket(type=socket.SOCK_DGRAM) as datagrams,
        pytest.raises(sockrpc.UsageError, match="stream"),
    ):
        sockrpc.serve(sockrpc.App(), sock=datagrams)
    with pytest.raises(sockrpc.UsageError, match="no socket"):
        sockrpc.serve(sockrpc.App(), sock=[])


# SO_REUSEPORT

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="SO_REUSEPORT shares out connections on Linux")


@contextlib.asynccontextmanager
async def two_listeners(app: Any) -> AsyncIterator[tuple[sockrpc.Server, sockrpc.Server, int]]:
    """Two servers that listen on one port, each with a socket of its own."""
    async with sockrpc.serve(app, "127.0.0.1", 0, reuse_port=True, stop_grace=NEVER) as old:
        port = old.sockets[0].getsockname()[1]
        async with sockrpc.serve(app, "127.0.0.1", port, reuse_port=True) as new:
            yield old, new, port


@LINUX
async def test_what_waits_to_be_accepted_is_let_in_where_others_share_the_port() -> None:
    async with two_listeners(Work().app()) as (old, _, port):
        queued = queue_up(port, 40, opening() + request(1, "echo", b"x"))
        old.close()
        outcomes = []
        for each in queued:
            async with await raw_over(each) as raw:
                assert (await raw.wait(raw.reader.readuntil(b"\r\n\r\n"))).startswith(b"HTTP/1.1 101 ")
                outcomes.append(await raw.receive())
        assert {payload[:2] for _, payload in outcomes} == {b"\x03\xe9", b"\x04\x00"}
        await old.wait_closed()


@LINUX
async def test_who_comes_while_a_listener_leaves_reaches_the_others() -> None:
    async with two_listeners(Work().app()) as (old, new, port):

        async def come() -> None:
            async with sockrpc.connect(f"ws://127.0.0.1:{port}/") as client:
                assert await client.call("echo", b"x") == b"x"

        old.close()
        assert old.sockets == ()
        # Half of them are repeated by the system a second later, when there is one listener only.
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            for _ in range(16):
                group.create_task(come())
        assert new.statistics().calls_answered == 16
        assert old.statistics().calls_started == 0
        await old.wait_closed()


@LINUX
async def test_what_the_leaving_listener_still_gets_is_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    # Stands for a handshake that was under way: none can be that takes its time on one machine.
    monkeypatch.setattr(sockrpc.listen.server_sockets, "NO_NEW_CONNECTIONS", ((0x06, 0, 0, 0xFFFF_FFFF),))
    app = Work().app()
    async with sockrpc.serve(app, "127.0.0.1", 0, reuse_port=True, stop_grace=NEVER) as old:
        port = old.sockets[0].getsockname()[1]
        old.close()
        async with await line_to(port) as raw:
            await raw.send(opening())
            await is_let_in_and_told(raw)


@LINUX
async def test_a_stop_in_a_hurry_does_not_wait_for_handshakes_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sockrpc.listen.server_sockets, "HANDSHAKES_UNDER_WAY", NEVER)
    async with two_listeners(Work().app()) as (old, new, port):
        old.close()
        old.hurry()
        async with asyncio.timeout(PATIENCE):
            await old.wait_closed()
        async with sockrpc.connect(f"ws://127.0.0.1:{port}/") as client:
            assert await client.call("echo", b"x") == b"x"
        assert new.statistics().calls_answered == 1
        new.hurry()


@LINUX
async def test_where_no_filter_can_be_attached_the_queue_is_let_in_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sockrpc.listen.server_sockets, "SO_ATTACH_FILTER", 0x7FFF)
    async with two_listeners(Work().app()) as (old, _, port):
        queued = queue_up(port, 40, opening())
        old.close()
        for each in queued:
            async with await raw_over(each) as raw:
                assert (await raw.wait(raw.reader.readuntil(b"\r\n\r\n"))).startswith(b"HTTP/1.1 101 ")
        await old.wait_closed()


def test_no_descriptor_is_left_of_accepting() -> None:
    before = set(os.listdir("/dev/fd"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert sockrpc.listen.server_sockets.accept_all(listening, 10) == []
    assert set(os.listdir("/dev/fd")) == before
