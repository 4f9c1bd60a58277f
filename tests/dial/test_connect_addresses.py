"""Which addresses are tried, when, and from where; sockets that are given."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sockrpc
from tests.kit.inside import transport_of
from tests.kit.raw_server import RawServer
from tests.kit.support import PATIENCE, serving, until
from tests.kit.tls import client_context, server_context
from tests.kit.work import Work

NAME = "several.test"


@contextlib.contextmanager
def swallowing() -> Iterator[int]:
    """A port of 127.0.0.1 at which SYNs are dropped: its queue is full."""
    with contextlib.ExitStack() as stack:
        hole = stack.enter_context(socket.socket())
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        for _ in range(3):
            each = stack.enter_context(socket.socket())
            each.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                each.connect(hole.getsockname())
        yield hole.getsockname()[1]


def name_has(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[int]:
    """Have NAME resolve to these; returns the families that were asked for."""
    families: list[int] = []

    async def getaddrinfo(host: str, port: int, *, family: int = 0, **options: Any) -> list[Any]:
        assert host == NAME
        families.append(family)
        found = [(socket.AF_INET6 if ":" in each else socket.AF_INET, each) for each in addresses]
        return [
            (kind, socket.SOCK_STREAM, 6, "", (each, port, 0, 0) if kind == socket.AF_INET6 else (each, port))
            for kind, each in found
            if family in (0, kind)
        ]

    # Not `socket.getaddrinfo`: uvloop resolves by libuv.
    monkeypatch.setattr("sockrpc.dial.addresses.lookup", getaddrinfo)
    return families


pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8 as addresses of its own"
)


async def test_an_address_that_swallows_packets_is_overtaken_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name_has(monkeypatch, "127.0.0.1", "127.0.0.2")
    loop = asyncio.get_running_loop()
    with swallowing() as port:
        async with sockrpc.serve(Work().app(), "127.0.0.2", port):
            began = loop.time()
            async with sockrpc.connect(f"ws://{NAME}:{port}/", open_timeout=PATIENCE) as client:
                assert 0.2 < loop.time() - began < 2
                assert await client.call("echo", b"x") == b"x"


async def test_an_address_that_refuses_is_followed_by_the_next_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name_has(monkeypatch, "127.0.0.3", "127.0.0.2")
    loop = asyncio.get_running_loop()
    async with sockrpc.serve(Work().app(), "127.0.0.2", 0) as server:
        began = loop.time()
        async with sockrpc.connect(f"ws://{NAME}:{server.sockets[0].getsockname()[1]}/"):
            assert loop.time() - began < 0.2


async def test_the_attempts_that_lose_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    name_has(monkeypatch, "127.0.0.1", "127.0.0.2", "127.0.0.3")
    with swallowing() as port, socket.create_server(("127.0.0.3", port)) as other:
        other.settimeout(PATIENCE)
        async with sockrpc.serve(Work().app(), "127.0.0.2", port):
            async with sockrpc.connect(f"ws://{NAME}:{port}/", open_timeout=PATIENCE):
                pass
            other.setblocking(False)
            with pytest.raises(BlockingIOError):
                other.accept()


async def test_if_none_answers_the_error_names_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    name_has(monkeypatch, "127.0.0.2", "127.0.0.3")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError) as raised:
            await sockrpc.connect(f"ws://{NAME}:{unused.getsockname()[1]}/")
    assert "127.0.0.2" in str(raised.value)
    assert "127.0.0.3" in str(raised.value)


async def test_open_timeout_ends_all_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    name_has(monkeypatch, "127.0.0.1", "127.0.0.1")
    with (
        swallowing() as port,
        pytest.raises(TimeoutError, match=f"no connection to ws://{NAME}:{port}/ within"),
    ):
        await sockrpc.connect(f"ws://{NAME}:{port}/", open_timeout=0.4)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
async def test_family_chooses_addresses(family: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = name_has(monkeypatch, "::1", "127.0.0.1")
    async with sockrpc.serve(Work().app(), ["127.0.0.1", "::1"], 0) as server:
        for sock in server.sockets:
            connecting = sockrpc.connect(f"ws://{NAME}:{sock.getsockname()[1]}/", family=family)
            if sock.family != family:
                with pytest.raises(ConnectionRefusedError):
                    await connecting
                continue
            async with connecting:
                assert [each.remote_address[0] for each in server.connections] == [sock.getsockname()[0]]
    assert set(asked) == {family}


async def test_family_is_for_addresses_as_well() -> None:
    with pytest.raises(socket.gaierror):
        await sockrpc.connect("ws://127.0.0.1/", family=socket.AF_INET6)


@pytest.mark.parametrize("secure", [False, True])
async def test_local_addr_is_where_the_connection_comes_from(secure: bool) -> None:
    options: dict[str, Any] = {"ssl": client_context()} if secure else {}
    async with serving(Work().app(), ssl=server_context() if secure else None) as here:
        uri = here.uri.replace("ws:", "wss:") if secure else here.uri
        async with sockrpc.connect(uri, local_addr=("127.0.0.9", 0), **options):
            assert here.only_socket().remote_address[0] == "127.0.0.9"
        await until(lambda: not here.server.connections)
        with pytest.raises(OSError, match=r"bind|assign"):
            await sockrpc.connect(uri, local_addr=("192.0.2.1", 0), **options)


@pytest.mark.parametrize("secure", [False, True])
async def test_a_socket_that_is_given_is_used_and_closed(secure: bool) -> None:
    options: dict[str, Any] = {"ssl": client_context()} if secure else {}
    async with serving(Work().app(), ssl=server_context() if secure else None) as here:
        # It blocks, as sockets do.
        sock = socket.create_connection(("127.0.0.1", here.port))
        own = sock.getsockname()
        uri = f"{'wss' if secure else 'ws'}://127.0.0.1/"
        connecting = sockrpc.connect(uri, sock=sock, **options)
        async with connecting as client:
            assert here.only_socket().remote_address == own
            assert here.only_socket().request.headers["Host"] == "127.0.0.1"
            assert await client.call("echo", b"x") == b"x"
        await until(lambda: sock.fileno() == -1)
        with pytest.raises(sockrpc.UsageError, match="used up"):
            await connecting


async def test_a_unix_socket_may_be_given(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    async with sockrpc.serve(Work().app(), uds=path):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        async with sockrpc.connect("ws://localhost/", sock=sock) as client:
            assert await client.call("echo", b"x") == b"x"


async def test_small_frames_are_not_held_back_for_others() -> None:
    async with RawServer() as server:
        client, peer = await server.client()
        transport = transport_of(client)
        line: socket.socket = transport.get_extra_info("socket")
        assert line.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        await peer.finish()
        await client.wait_closed()


@pytest.mark.parametrize(
    "names", ["uds family", "uds local_addr", "uds proxy", "uds sock", "sock family", "sock proxy"]
)
async def test_ways_that_exclude_each_other_are_a_usage_error(names: str) -> None:
    with socket.socket() as sock:
        values: dict[str, Any] = {
            "uds": "/s",
            "sock": sock,
            "family": socket.AF_INET,
            "local_addr": ("127.0.0.1", 0),
            "proxy": "http://localhost:1",
        }
        with pytest.raises(sockrpc.UsageError):
            sockrpc.connect("ws://localhost/", **{name: values[name] for name in names.split()})


async def test_certificates_are_read_once_and_not_by_the_loop_s_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[int] = []
    real = ssl.create_default_context

    def counted() -> ssl.SSLContext:
        made.append(threading.get_ident())
        return real()

    monkeypatch.setattr("sockrpc.dial.tls._MADE", [])
    monkeypatch.setattr(ssl, "create_default_context", counted)

    async def attempt(uri: str) -> None:
        with contextlib.suppress(OSError):
            await sockrpc.connect(uri)

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        uri = f"wss://127.0.0.1:{unused.getsockname()[1]}/"
        await asyncio.gather(*[attempt(uri) for _ in range(20)])
    assert len(made) == 1
    assert made[0] != threading.get_ident()
