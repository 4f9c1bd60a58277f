"""What peers send is harmless in our log, and what handlers raise stays with us."""

from __future__ import annotations

import asyncio
import logging
import socket as socket_module
import unicodedata
from pathlib import Path

import pytest
from websockets.http11 import Request

import sockrpc
from tests.kit.http_peer import ask
from tests.kit.support import CLOSE, RawClient, frame, notify, opening, request, serving, until

# A line of its own, a terminal's colours and title, the same by one byte, text from right to left, a NUL.
HOSTILE = "a\r\n2026-01-01 ERROR forged\x1b[31m\x9b31m\x1b]0;t\x07\u202ecba\u2028\x00"
SECRET = "the secret"


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [logging.Formatter("%(message)s").formatMessage(each) for each in messages(caplog)]


def messages(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    for each in caplog.records:
        each.message = each.getMessage()
    return caplog.records


def assert_harmless(caplog: pytest.LogCaptureFixture, *, holds: str) -> None:
    """Each message is one line of characters that only show themselves, and one tells what was sent."""
    assert any(holds in line for line in lines(caplog))
    for line in lines(caplog):
        assert [each for each in line if unicodedata.category(each) in ("Cc", "Cf", "Zl", "Zp")] == []


async def test_the_name_of_an_unknown_method_is_escaped(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(sockrpc.App()) as here, await here.raw() as raw:
        await raw.send(request(1, HOSTILE))
        await raw.synchronize()
    assert_harmless(caplog, holds="forged")


async def test_the_name_of_a_method_that_fails_is_escaped(caplog: pytest.LogCaptureFixture) -> None:
    app = sockrpc.App()

    @app.method(HOSTILE)
    def fail(call: sockrpc.Call) -> int:
        return 1

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, HOSTILE))
        await raw.synchronize()
    assert_harmless(caplog, holds="forged")


async def test_an_origin_that_is_refused_is_escaped(caplog: pytest.LogCaptureFixture) -> None:
    # HTTP lets no control character of ASCII through, but those of ISO 8859-1 (0x9b is one ESC [).
    origin = b"https://evil\x9b31m.example\x85forged"
    async with serving(sockrpc.App()) as here:
        answer = await ask(here.port, opening(Origin="https://evil").replace(b"https://evil", origin))
    assert answer.status == 403
    assert_harmless(caplog, holds="forged")


@pytest.mark.skipif(not hasattr(socket_module, "AF_UNIX"), reason="no unix sockets here")
async def test_the_address_of_a_peer_is_escaped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # The name of its own end of a unix socket is the peer's to choose.
    path, hostile = tmp_path / "s", tmp_path / "a\n2026 ERROR forged\x1b[31m"
    async with sockrpc.serve(sockrpc.App(), uds=str(path)):
        with socket_module.socket(socket_module.AF_UNIX) as peer:
            peer.bind(str(hostile))
            peer.connect(str(path))
            peer.setblocking(False)
            reader, writer = await asyncio.open_unix_connection(sock=peer)
            async with RawClient(reader, writer) as raw:
                writer.write(opening())
                await reader.readuntil(b"\r\n\r\n")
                await raw.send(request(1, "unknown"))
                await raw.synchronize()
    assert_harmless(caplog, holds="forged")


async def everything_that_is_sent(raw: RawClient) -> list[tuple[int, bytes]]:
    """The opcode and the payload of each frame, a close frame being the last."""
    frames = [await raw.receive()]
    while frames[-1][0] != CLOSE:
        frames.append(await raw.receive())
    await raw.send(frame(*frames[-1]))
    return frames


@pytest.mark.parametrize("where", ["plain", "coroutine", "thread", "spawned", "undo", "event", "returned"])
async def test_what_a_handler_raises_stays_here(where: str, caplog: pytest.LogCaptureFixture) -> None:
    app = sockrpc.App()

    @app.method("plain")
    def plain(call: sockrpc.Call) -> None:
        raise ValueError(SECRET)

    @app.method("coroutine")
    async def coroutine(call: sockrpc.Call) -> None:
        await asyncio.sleep(0)
        raise ValueError(SECRET)

    @app.method("thread", thread=True)
    def thread(call: sockrpc.Call) -> None:
        raise ValueError(SECRET)

    @app.method("spawned")
    def spawned(call: sockrpc.Call) -> None:
        call.spawn_and_abort_on_reset(coroutine(call))

    @app.method("undo", timeout=0.001)
    async def undo(call: sockrpc.Call) -> None:
        call.on_abort(plain, call)
        await call.wait_reset()

    @app.method("returned")
    def returned(call: sockrpc.Call) -> object:
        return ValueError(SECRET)

    @app.on("event")
    def event(notification: sockrpc.Notification) -> None:
        raise ValueError(SECRET)

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(notify("event") if where == "event" else request(1, where))
        await until(lambda: caplog.records and not here.server.statistics().calls_running)
        here.server.close()
        frames = await everything_that_is_sent(raw)
    assert not any(SECRET.encode() in payload for _, payload in frames)


@pytest.mark.parametrize("where", ["on_connect", "coroutine of the socket"])
async def test_what_closes_a_connection_is_told_here_only(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(socket: sockrpc.Socket) -> None:
        raise ValueError(SECRET)

    app = sockrpc.App()
    app.on_connect(fail)
    async with serving(app if where == "on_connect" else fail) as here, await here.raw() as raw:
        ((opcode, payload),) = await everything_that_is_sent(raw)
    assert (opcode, payload[:2]) == (CLOSE, (1011).to_bytes(2, "big"))
    assert SECRET.encode() not in payload
    assert SECRET in caplog.text


async def test_what_process_request_raises_stays_here(caplog: pytest.LogCaptureFixture) -> None:
    def fail(socket: sockrpc.Socket, request: Request) -> None:
        raise ValueError(SECRET)

    async with serving(sockrpc.App(), process_request=fail) as here:
        answer = await ask(here.port, opening())
    assert (answer.status, SECRET.encode() in answer.body) == (500, False)
    assert SECRET in caplog.text
