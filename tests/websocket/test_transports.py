"""The same calls over TCP, IPv6, unix sockets and TLS; and what may be listened on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import sockrpc
from tests.kit.inside import abort_connection, working
from tests.kit.support import BINARY, RawClient, frame, opening, request, reset, serving, started, until
from tests.kit.tls import client_context, server_context
from tests.kit.work import Work

HAS_UNIX = hasattr(socket, "AF_UNIX")


def has_ipv6() -> bool:
    if not socket.has_ipv6:
        return False
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_unix = pytest.mark.skipif(not HAS_UNIX, reason="no unix sockets here")
needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")

KINDS = [
    "tcp",
    pytest.param("ipv6", marks=needs_ipv6),
    pytest.param("unix", marks=needs_unix),
    "tls",
    pytest.param("tls over ipv6", marks=needs_ipv6),
    pytest.param("tls over unix", marks=needs_unix),
]
over_each = pytest.mark.parametrize("kind", KINDS)


class There:
    """A server over some transport."""

    def __init__(self, kind: str, server: sockrpc.Server, uds: str | None) -> None:
        self.server = server
        self.uds = uds
        self.tls = client_context() if "tls" in kind else None
        address = server.sockets[0].getsockname()
        host = "127.0.0.1" if uds is not None or len(address) == 2 else "[::1]"
        port = "" if uds is not None else f":{address[1]}"
        self.uri = f"{'ws' if self.tls is None else 'wss'}://{host}{port}/socket"
        self.address = address

    def connect(self, **options: Any) -> sockrpc.connect:
        return sockrpc.connect(self.uri, uds=self.uds, ssl=self.tls, **options)

    @contextlib.asynccontextmanager
    async def raw(self) -> AsyncIterator[RawClient]:
        options: dict[str, Any] = {"ssl": self.tls}
        if self.tls is not None:
            options["server_hostname"] = "127.0.0.1"
        if self.uds is not None:
            reader, writer = await asyncio.open_unix_connection(self.uds, **options)
        else:
            reader, writer = await asyncio.open_connection(*self.address[:2], **options)
        async with RawClient(reader, writer) as raw:
            await raw.send(opening())
            assert (await raw.wait(reader.readuntil(b"\r\n\r\n"))).startswith(b"HTTP/1.1 101 ")
            yield raw


@contextlib.asynccontextmanager
async def over(kind: str, app: sockrpc.App, tmp_path: Path, **options: Any) -> AsyncIterator[There]:
    options = {"stop_grace": 2.0, "abort_grace": 1.0, "close_timeout": 2.0} | options
    if "tls" in kind:
        options["ssl"] = server_context()
    uds = str(tmp_path / "socket") if "unix" in kind else None
    if uds is not None:
        options["uds"] = uds
    else:
        options |= {"host": "::1" if "ipv6" in kind else "127.0.0.1", "port": 0}
    async with sockrpc.serve(app, **options) as server:
        yield There(kind, server, uds)


@over_each
async def test_calls_and_notifications(kind: str, tmp_path: Path) -> None:
    app = sockrpc.App()

    @app.method("reverse")
    async def reverse(call: sockrpc.Call) -> bytes:
        await asyncio.sleep(0)
        return call.payload[::-1]

    @app.on("ping")
    async def ping(notification: sockrpc.Notification) -> None:
        await notification.socket.notify("pong", notification.payload)

    async with over(kind, app, tmp_path) as here, here.connect() as one, here.connect() as two:
        calls = [client.call("reverse", f"{n} olleh") for n in range(50) for client in (one, two)]
        assert await asyncio.gather(*calls) == [
            f"hello {str(n)[::-1]}".encode() for n in range(50) for _ in range(2)
        ]
        pongs = two.on("pong")
        await two.notify("ping", b"x")
        assert await anext(pongs) == b"x"


@over_each
async def test_a_reset_aborts_the_work(kind: str, tmp_path: Path) -> None:
    there = Work()
    async with over(kind, there.app(), tmp_path) as here, here.connect() as client:
        call = await started(client.call("work"))
        await until(lambda: there.calls)
        call.cancel()
        await until(lambda: there.ended)
        assert there.reasons == ["reset"]
        assert await client.call("echo", b"still there") == b"still there"


@over_each
async def test_a_reset_in_the_same_read_as_its_request(kind: str, tmp_path: Path) -> None:
    there = Work()
    async with over(kind, there.app(), tmp_path) as here, here.raw() as raw:
        await raw.send(request(1, "work"), reset(1), request(1, "echo", b"x"))
        assert await raw.answer() == (1, b"x")
        await until(lambda: here.server.statistics().calls_running == 0)
        assert here.server.statistics().calls_reset == 1


@over_each
@pytest.mark.parametrize("how", ["close", "abort"])
async def test_losing_the_connection_aborts_the_work(kind: str, how: str, tmp_path: Path) -> None:
    there = Work()
    async with over(kind, there.app(), tmp_path) as here, here.connect() as client:
        call = await started(client.call("work"))
        await until(lambda: there.calls)
        if how == "close":
            await client.close()
        else:
            abort_connection(client, "the line is cut")
        with pytest.raises((sockrpc.ConnectionClosed, sockrpc.ConnectionLost)):
            await call
        await until(lambda: there.ended)
        assert there.reasons == ["lost"]
        await until(lambda: not working(here.server))


@over_each
async def test_a_fault_is_told_by_a_close_frame(kind: str, tmp_path: Path) -> None:
    there = Work()
    async with over(kind, there.app(), tmp_path) as here, here.raw() as raw:
        await raw.send(request(1, "work"))
        await until(lambda: there.calls)
        await raw.send(request(2, "echo", b"before"), frame(BINARY), request(3, "echo", b"after"))
        assert await raw.answer() == (2, b"before")
        assert await raw.closing() == (1002, "empty message")
        assert await raw.nothing_more()
        await until(lambda: there.ended)


@over_each
@pytest.mark.parametrize("size", [70_000, 2_000_000])
async def test_large_payloads_there_and_back(kind: str, size: int, tmp_path: Path) -> None:
    payloads = [os.urandom(1000) * (size // 1000 + n) for n in range(2)]
    async with over(kind, Work().app(), tmp_path) as here, here.connect() as one, here.connect() as two:
        calls = [client.call("echo", payload) for payload in payloads for client in (one, two)]
        answers = await asyncio.gather(*calls)
    # Not compared as lists: the difference of two such would never be printed to its end.
    assert all(answer == payloads[n // 2] for n, answer in enumerate(answers))


@over_each
async def test_stopping_answers_what_was_started_and_closes_with_1001(kind: str, tmp_path: Path) -> None:
    there = Work()
    async with over(kind, there.app(), tmp_path) as here, here.connect() as client:
        call = await started(client.call("work"))
        await until(lambda: there.calls)
        here.server.close()
        there.may_answer.set()
        assert await call == b"answer"
        await client.wait_closed()
        with pytest.raises(sockrpc.ConnectionLost) as raised:
            await client.call("echo")
        assert raised.value.code == 1001


@over_each
async def test_the_address_of_the_peer(kind: str, tmp_path: Path) -> None:
    app = sockrpc.App()
    app.method("who")(lambda call: repr(call.socket.remote_address))
    async with over(kind, app, tmp_path) as here, here.connect() as client:
        address = (await client.call("who")).decode()
        if "unix" in kind:
            assert address in ("''", "b''", "None")
        else:
            assert address.startswith("('::1'" if "ipv6" in kind else "('127.0.0.1'")


# What may be listened on


async def test_a_socket_that_is_bound_already() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        async with sockrpc.serve(Work().app(), sock=listening) as server:
            assert server.sockets[0].getsockname()[1] == port
            async with sockrpc.connect(f"ws://127.0.0.1:{port}/") as client:
                assert await client.call("echo", b"x") == b"x"
        assert server.sockets == ()


@needs_unix
async def test_a_unix_socket_that_is_bound_already(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        async with (
            sockrpc.serve(Work().app(), sock=listening),
            sockrpc.connect("ws://localhost/", uds=path) as client,
        ):
            assert await client.call("echo", b"x") == b"x"


async def test_a_port_that_is_taken_is_an_error_and_leaves_nothing() -> None:
    async with serving(Work().app()) as here:
        with pytest.raises(OSError, match="in use"):
            await sockrpc.serve(Work().app(), "127.0.0.1", here.port)
        async with here.connect() as client:
            assert await client.call("echo", b"x") == b"x"


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT") or sys.platform != "linux", reason="no SO_REUSEPORT")
async def test_two_servers_may_share_a_port() -> None:
    async with serving(Work().app(), reuse_port=True) as here:
        async with sockrpc.serve(Work().app(), "127.0.0.1", here.port, reuse_port=True) as other:
            assert other.sockets[0].getsockname()[1] == here.port
        async with here.connect() as client:
            assert await client.call("echo", b"x") == b"x"


@pytest.mark.parametrize("arguments", [{}, {"port": 0, "uds": "x"}, {"uds": "x", "sock": object()}], ids=str)
async def test_one_thing_is_listened_on(arguments: dict[str, Any]) -> None:
    with pytest.raises(sockrpc.UsageError, match="one of"):
        sockrpc.serve(sockrpc.App(), **arguments)
