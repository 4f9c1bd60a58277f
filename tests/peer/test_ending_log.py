"""Why a connection has ended: what its socket says, and what the log says."""

from __future__ import annotations

import asyncio
import logging
import struct
from types import SimpleNamespace
from typing import Any

import pytest

import sockrpc
from sockrpc.peer import ending_log
from sockrpc.peer import rate_limited_log as ratelimited
from tests.kit.http_peer import ask, line_to
from tests.kit.inside import begin_close, close_as_slow, has_let_go, working
from tests.kit.support import BINARY, CLOSE, TEXT, RawClient, Serving, frame, opening, request, serving, until
from tests.kit.work import Work

State = tuple[int | None, str | None, str | None]


def state(socket: sockrpc.Socket) -> State:
    return socket.close_code, socket.close_reason, socket.closed_by


class Seen:
    """What the hooks of an app saw of its sockets."""

    def __init__(self) -> None:
        self.before: list[State] = []
        self.after: list[State] = []
        self.app = Work().app()
        self.app.on_connect(lambda socket: self.before.append(state(socket)))
        self.app.on_disconnect(lambda socket: self.after.append(state(socket)))


def closing(code: int | None, reason: str = "") -> bytes:
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason.encode())


def told(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [
        each.getMessage().partition(" ended with ")[2]
        for each in caplog.records
        if each.levelno == level and " ended with " in each.getMessage()
    ]


async def end(raw: RawClient, here: Serving, what: str) -> None:
    if what == "server":
        begin_close(here.only_socket(), 4000, "bye")
    elif what == "slow":
        close_as_slow(here.only_socket())
    elif what == "lost":
        await raw.close()
    elif what == "reset":
        raw.reset_line()
    else:
        await raw.send(
            {
                "logged out": closing(4001, "logged\nout"),
                "gone": closing(1001),
                "silent": closing(None),
                "dissatisfied": closing(1002, "your fault"),
                "bad frame": frame(BINARY, b"\x09"),
                "text": frame(TEXT, b"x"),
                "not text": frame(TEXT, b"\xff"),
                "too large": request(1, "echo", bytes(2000)),
            }[what]
        )


@pytest.mark.parametrize(
    ("what", "code", "reason", "by", "level"),
    [
        ("logged out", 4001, "logged\nout", "client", logging.DEBUG),
        ("gone", 1001, "", "client", logging.DEBUG),
        ("silent", 1005, "", "client", logging.DEBUG),
        # Whatever the client says of us, it is no news for an operator.
        ("dissatisfied", 1002, "your fault", "client", logging.DEBUG),
        ("server", 4000, "bye", "server", logging.DEBUG),
        ("lost", 1006, "connection closed without a close frame", "lost", logging.DEBUG),
        ("reset", 1006, "connection lost", "lost", logging.DEBUG),
        ("bad frame", 1002, "unknown opcode", "server", logging.INFO),
        ("text", 1003, "text", "server", logging.INFO),
        ("not text", 1007, "UTF-8", "server", logging.INFO),
        ("too large", 1009, "", "server", logging.INFO),
        ("slow", 1013, "too slow", "server", logging.INFO),
    ],
)
async def test_the_socket_and_the_log_say_why(
    what: str, code: int, reason: str, by: str, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "sockrpc.server")
    seen = Seen()
    async with serving(seen.app, max_message_bytes=1000) as here:
        async with await here.raw() as raw:
            await until(lambda: seen.before)
            socket = here.only_socket()
            assert state(socket) == (None, None, None)
            await end(raw, here, what)
            await until(lambda: seen.after)
        # When the connection itself is freed, too.
        await until(lambda: has_let_go(socket))
        assert state(socket) == seen.after[0]
        assert seen.before == [(None, None, None)]
        assert [(seen_code, seen_by) for seen_code, _, seen_by in seen.after] == [(code, by)]
        assert reason in (seen.after[0][1] or "")
        (line,) = told(caplog, level)
        words = {"client": "closed by the client", "server": "closed by the server", "lost": "lost"}[by]
        assert line == f"{code} {seen.after[0][1]!r}, {words}"
        (record,) = (each for each in caplog.records if " ended with " in each.getMessage())
        fields: dict[str, Any] = vars(record)
        assert (fields["close_code"], fields["closed_by"]) == (code, by)
        assert fields["remote_address"].startswith("127.0.0.1:")


async def test_a_peer_that_is_given_up_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sockrpc.server")
    seen = Seen()
    async with (
        serving(seen.app, ping_interval=0.05, ping_timeout=0.05, handshake_timeout=0.2) as here,
        await here.raw(),
    ):
        await until(lambda: seen.after)
        assert seen.after == [(1006, "keepalive: no answer to a ping in time", "lost")]
        assert told(caplog, logging.INFO) == ["1006 'keepalive: no answer to a ping in time', lost"]
        _, writer = await asyncio.open_connection("127.0.0.1", here.port)
        await until(lambda: len(told(caplog, logging.INFO)) == 2)
        assert told(caplog, logging.INFO)[1] == "1006 'no opening handshake in time', lost"
        writer.close()


async def test_pages_and_connections_that_never_opened_are_for_debugging(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "sockrpc.server")
    seen = Seen()
    async with serving(seen.app) as here:
        await ask(here.port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert told(caplog, logging.DEBUG) == [
            "1006 'refused in the opening handshake', closed by the server"
        ]
        assert told(caplog, logging.INFO) == []
    assert not seen.after


async def test_a_flood_of_bad_peers_is_no_flood_of_lines(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "sockrpc.server")
    now = 1000.0
    monkeypatch.setattr(ratelimited, "time", SimpleNamespace(monotonic=lambda: now))
    async with serving(Work().app()) as here:

        async def bad(count: int, data: bytes) -> None:
            for _ in range(count):
                async with line_to(here.port) as (reader, writer):
                    writer.write(opening() + data)
                    await reader.read()
                await until(lambda: not working(here.server))

        await bad(25, frame(BINARY, b"\x09"))
        assert len(told(caplog, logging.INFO)) == ending_log.LINES_A_MINUTE == 10
        # Another fault has lines of its own.
        await bad(1, frame(TEXT, b"x"))
        assert len(told(caplog, logging.INFO)) == 11
        now += 59.9
        await bad(1, frame(BINARY, b"\x09"))
        assert len(told(caplog, logging.INFO)) == 11
        now += 0.2
        await bad(2, frame(BINARY, b"\x09"))
        first, second = told(caplog, logging.INFO)[11:]
        assert first.endswith("closed by the server; 16 more since its last line")
        assert second.endswith("closed by the server")


async def test_the_line_about_refused_connections_comes_again_after_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(ratelimited, "time", SimpleNamespace(monotonic=lambda: now))
    async with serving(sockrpc.App(), max_connections=1) as here, here.connect():
        lines = []
        for step in (0.0, 0.0, 59.9, 0.2, 1.0, 60.0):
            now += step
            assert (await ask(here.port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")).status == 503
            lines.append(caplog.text.count("refusing connections"))
    assert lines == [1, 1, 1, 2, 2, 3]
