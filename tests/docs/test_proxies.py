"""docs/howto/behind-a-proxy.md: nginx and HAProxy by the files of examples/ do what the page says."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import sockrpc
from tests.kit.processes import ROOT
from tests.kit.proxies import KINDS, behind, missing
from tests.kit.support import PATIENCE, cut, opening, request, until
from tests.kit.tls import client_context

pytestmark = [
    pytest.mark.docs,
    pytest.mark.parametrize(
        "kind",
        [
            pytest.param(kind, marks=pytest.mark.skipif(bool(missing(kind)), reason=missing(kind)))
            for kind in KINDS
        ],
    ),
]

# The time after which each gives a silent WebSocket up, as the files have it.
SILENCE = {"nginx": "proxy_read_timeout 60s", "haproxy": "timeout tunnel 60s"}


def soon(kind: str) -> dict[str, str]:
    """The same, but after one second."""
    return {SILENCE[kind]: SILENCE[kind].replace("60s", "1s")}


BLOCK_BYTES = 64 * 1024
# Far above what the systems' buffers of two connections hold.
BETWEEN_BYTES = 64 * 1024 * 1024


async def is_taken_within_a_second(socket: sockrpc.Socket, payload: bytes) -> bool:
    try:
        async with asyncio.timeout(1):
            await socket.notify("block", payload)
    except TimeoutError:
        return False
    return True


def aborts(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "behind_a_proxy"]


@pytest.mark.runs("examples/behind_a_proxy.py", "examples/haproxy.cfg", "examples/nginx.conf")
async def test_calls_resets_and_answers_go_through(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with behind(kind, tmp_path, {}) as proxy, proxy.connect() as client:
        assert await client.call("wait", "0") == b"done"
        waiting = client.start("wait", "3600")
        await until(lambda: proxy.server.statistics().calls_running == 1)
        assert await waiting.cancel() is sockrpc.Outcome.PARTIAL
        assert aborts(caplog) == ["aborted: reset"]
        assert await client.call("wait", "0") == b"done"
        assert proxy.server.statistics().connections == 1


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_a_client_that_is_gone_is_gone_for_the_server(
    kind: str, how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with behind(kind, tmp_path, {}) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, ssl=client_context())
        writer.write(opening())
        async with asyncio.timeout(PATIENCE):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        writer.write(request(1, "wait", b"3600"))
        await until(lambda: proxy.server.statistics().calls_running == 1)
        if how == "rst":
            cut(writer)
        else:
            writer.close()
        await until(lambda: aborts(caplog) == ["aborted: lost"])
        await until(lambda: not proxy.server.connections)


async def test_pings_keep_a_silent_connection(kind: str, tmp_path: Path) -> None:
    async with (
        behind(kind, tmp_path, soon(kind), ping_interval=0.25) as proxy,
        proxy.connect(ping_interval=None) as client,
    ):
        # Nothing but pings for longer than the time-out of the proxy.
        assert await client.call("wait", "1.7", timeout=PATIENCE) == b"done"


async def test_without_pings_the_proxy_cuts_a_silent_connection(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with behind(kind, tmp_path, soon(kind), ping_interval=None) as proxy:
        async with proxy.connect(ping_interval=None) as client:
            begun = time.monotonic()
            with pytest.raises(sockrpc.ConnectionLost):
                await client.call("wait", "3600", timeout=PATIENCE)
            assert time.monotonic() - begun > 0.9
        await until(lambda: aborts(caplog) == ["aborted: lost"])


async def test_the_address_is_what_the_proxy_says_and_not_what_the_client_does(
    kind: str, tmp_path: Path
) -> None:
    forged = {"X-Forwarded-For": "203.0.113.9"}
    async with behind(kind, tmp_path, {}) as proxy, proxy.connect(headers=forged) as client:
        assert await client.call("myip") == b"127.0.0.1"


async def test_the_origin_is_compared_with_the_host_that_the_client_named(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with behind(kind, tmp_path, {}) as proxy:
        async with proxy.connect(origin="https://127.0.0.1") as client:
            assert await client.call("wait", "0") == b"done"
        with pytest.raises(sockrpc.HandshakeError) as refused:
            await proxy.connect(origin="https://evil.example")
        assert refused.value.status == 403
        assert "evil.example" in caplog.text


async def test_a_reload_leaves_connections_and_their_calls_alone(kind: str, tmp_path: Path) -> None:
    async with behind(kind, tmp_path, {}) as proxy, proxy.connect() as old:
        waiting = asyncio.create_task(old.call("wait", "0.8", timeout=PATIENCE))
        await until(lambda: proxy.server.statistics().calls_running == 1)
        proxy.signal(signal.SIGHUP if kind == "nginx" else signal.SIGUSR2)
        async with proxy.connect() as new:
            assert await new.call("wait", "0") == b"done"
        assert await waiting == b"done"
        assert await old.call("wait", "0") == b"done"


async def test_a_server_that_stops_says_so_and_then_the_proxy_says_that_nobody_is_there(
    kind: str, tmp_path: Path
) -> None:
    async with behind(kind, tmp_path, {}) as proxy:
        async with proxy.connect() as client:
            proxy.server.close()
            with pytest.raises(sockrpc.ConnectionLost) as lost:
                await anext(client.on("nothing"))
            assert lost.value.code == 1001
        await proxy.server.wait_closed()
        with pytest.raises(sockrpc.HandshakeError) as refused:
            await proxy.connect()
        assert refused.value.status == {"nginx": 502, "haproxy": 503}[kind]


async def test_a_slow_reader_is_not_buffered_without_bound_by_the_proxy(kind: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"output_high_bytes": 64 * 1024, "output_low_bytes": 16 * 1024}
    async with behind(kind, tmp_path, {}, **options) as proxy:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", proxy.port, ssl=client_context(), limit=1024
        )
        writer.write(opening())
        async with asyncio.timeout(PATIENCE):
            await reader.readuntil(b"\r\n\r\n")
        await until(lambda: proxy.server.connections)
        (socket,) = proxy.server.connections
        blocks = 0
        # It waits once the proxy, and the systems between, take no more.
        while await is_taken_within_a_second(socket, bytes(BLOCK_BYTES)):
            blocks += 1
            assert blocks * BLOCK_BYTES < BETWEEN_BYTES
        cut(writer)
        await until(lambda: not proxy.server.connections)


def test_the_page_says_the_times_of_the_files(kind: str) -> None:
    page = (ROOT / "docs" / "howto" / "behind-a-proxy.md").read_text("utf-8")
    name = {"nginx": "nginx.conf", "haproxy": "haproxy.cfg"}[kind]
    assert SILENCE[kind] in (ROOT / "examples" / name).read_text("utf-8")
    assert f"`{SILENCE[kind]}`" in page
