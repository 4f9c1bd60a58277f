"""What peers say neither begins a line of the log nor steers a terminal: not in exceptions either."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import traceback
from pathlib import Path

import pytest

import sockrpc
import sockrpc.dial.reconnecting
from sockrpc.texts import printable
from tests.kit.raw_server import RawServer, open_client
from tests.kit.support import CLOSE, PATIENCE, RawClient, frame, notify, opening, request, serving, until
from tests.kit.work import Work

pytestmark = pytest.mark.outside

# A forged line, colours, C1 controls, a separator of lines and text from right to left.
EVIL = "evil\r\nFORGED \x1b[31m\x85\x9b\u2028\u202e\0\x7f"
ESCAPED = "evil\\r\\nFORGED \\x1b[31m\\x85\\x9b\\u2028\\u202e\\x00\\x7f"


@pytest.mark.parametrize(
    ("text", "shown"),
    [("", ""), ("größe – 🐍", "größe – 🐍"), (EVIL, ESCAPED), ("\ud800", "\\ud800"), ("a\tb", "a\\tb")],
)
def test_what_is_not_printable_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    "error",
    [
        sockrpc.HandshakeError(EVIL),
        sockrpc.HandshakeError(EVIL, 503),
        sockrpc.ConnectionLost(1001, EVIL),
        sockrpc.ConnectionClosed(1000, EVIL),
        sockrpc.ProtocolError(1002, EVIL),
    ],
)
def test_an_exception_has_the_peers_words_and_an_escaped_text(error: sockrpc.HandshakeError) -> None:
    assert error.reason == EVIL
    assert ESCAPED in str(error)
    assert str(error).isprintable()


def body(text: str) -> bytes:
    encoded = text.encode()
    return b"HTTP/1.1 503 No\r\nContent-Length: %d\r\n\r\n%s" % (len(encoded), encoded)


ANSWERS = {
    "body": body(EVIL),
    "phrase": b"HTTP/1.1 503 e\x1b[31m\x85\x9b\r\nContent-Length: 0\r\n\r\n",
    "location": b"HTTP/1.1 301 No\r\nLocation: http://[\x1b[31m\x85\r\n\r\n",
    "scheme": b"HTTP/1.1 301 No\r\nLocation: e\x1b[31m://x/\r\n\r\n",
    "upgrade": b"HTTP/1.1 101 No\r\nUpgrade: \x1b[31m\x85\x9b\r\nConnection: Upgrade\r\n\r\n",
    "framing": b"HTTP/1.1 200 No\r\nTransfer-Encoding: \x1b[31m\x85\r\n\r\n",
    "length": b"HTTP/1.1 200 No\r\nContent-Length: \x1b[31m\x85\r\n\r\n",
    "no HTTP": b"\x1b[31m\x85\r\n\r\n",
    "status": b"HTTP/1.1 20\x1b0 No\r\n\r\n",
    "field": b"HTTP/1.1 200 No\r\n\x1b[31m: x\r\n\r\n",
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_no_answer_of_a_server_gets_into_a_traceback_as_it_is(answer: bytes) -> None:
    async with RawServer() as server:
        connecting = asyncio.ensure_future(open_client(server.uri, {}))
        peer = await server.peer()
        await peer.read_head()
        await peer.send(answer)
        await peer.finish()
        with pytest.raises((sockrpc.HandshakeError, sockrpc.ConnectionLost)) as raised:
            await peer.wait(connecting)
    # The lines of the code are ours, those of the errors begin with their types.
    told = "".join(traceback.format_exception(raised.value))
    assert all(line.isprintable() for line in told.split("\n"))
    assert "FORGED" not in [line[:6] for line in told.splitlines()]


async def test_a_subprotocol_that_no_client_offered_is_escaped() -> None:
    async with RawServer() as server:
        connecting = asyncio.ensure_future(open_client(server.uri, {}))
        peer = await server.accept(headers={"Sec-WebSocket-Protocol": "e\x1b[31m"})
        with pytest.raises(sockrpc.HandshakeError, match=r"e\\x1b\[31m"):
            await peer.wait(connecting)


async def test_reconnecting_logs_what_a_server_says_escaped(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockrpc.dial.reconnecting, "FIRST_DELAY", 0.001)
    caplog.set_level(logging.INFO, "sockrpc.client")
    async with (
        RawServer() as server,
        asyncio.timeout(PATIENCE),
        contextlib.aclosing(aiter(sockrpc.connect(server.uri))) as clients,
    ):
        first = asyncio.ensure_future(anext(clients))
        peer = await server.peer()
        await peer.read_head()
        await peer.send(body(EVIL))
        peer = await server.accept()
        await first
        await peer.send(frame(CLOSE, struct.pack("!H", 1001) + EVIL.encode(), masked=False))
        await peer.finish()
        with pytest.raises(sockrpc.ConnectionLost):
            await (await first).call("echo")
        again = asyncio.ensure_future(anext(clients))
        await server.accept()
        await again
    told = [record.getMessage() for record in caplog.records if record.name == "sockrpc.client"]
    assert [ESCAPED in line for line in told] == [True, True]
    assert all(line.isprintable() for line in told)


async def ask(port: int, data: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    await reader.read()
    writer.close()


async def test_no_line_of_a_servers_log_has_a_peers_words_as_they_are(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    app = Work().app()
    evil = EVIL[:40]
    app.method(evil)(lambda call: 1 / 0)
    app.on(evil)(lambda notification: 1 / 0)
    async with serving(app) as here:
        for field in ("Origin", "Host", "User-Agent", "Sec-WebSocket-Protocol"):
            for value in ("http://e\x1b[31m", "http://e\xc2\x85"):
                await ask(here.port, opening().replace(b"\r\n\r\n", f"\r\n{field}: {value}\r\n\r\n".encode()))
        await ask(here.port, b"GET /\x1b[31m\x85 HTTP/1.1\r\nHost: x\r\n\r\n")
        await ask(here.port, opening(Origin="http://\u202eelsewhere"))
        async with await here.raw() as raw:
            await raw.send(request(1, "unknown " + evil), request(2, evil), notify(evil))
            # More names than are told apart.
            await raw.send(*(request(3 + number, f"{number}{evil}") for number in range(80)))
            await raw.synchronize()
            await raw.send(frame(CLOSE, struct.pack("!H", 3000) + EVIL.encode()))
        await until(lambda: "3000" in caplog.text)
    if hasattr(socket, "AF_UNIX"):
        async with sockrpc.serve(app, uds=str(tmp_path / "s")):
            line = socket.socket(socket.AF_UNIX)
            line.bind(str(tmp_path / "evil\nFORGED\x1b[31m"))
            line.setblocking(False)
            line.connect(str(tmp_path / "s"))
            raw = RawClient(*await asyncio.open_unix_connection(sock=line))
            raw.writer.write(opening())
            await raw.reader.readuntil(b"\r\n\r\n")
            await raw.send(request(1, "unknown"), request(2, evil))
            await raw.synchronize()
            await raw.close()
    told = [record.getMessage() for record in caplog.records if record.name.startswith("sockrpc")]
    assert len(told) >= 8
    assert [line for line in told if not line.isprintable()] == []
