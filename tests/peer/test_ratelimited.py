"""Floods of what peers can make a server log: one line a name and minute, and bounded memory."""

from __future__ import annotations

import logging
import weakref
from types import SimpleNamespace

import pytest

import sockrpc
from sockrpc.peer import rate_limited_log
from sockrpc.peer.rate_limited_log import NAMES, RateLimitedLog
from tests.kit.support import RawClient, request, serving


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Name(str):
    """A name that one can see go."""

    __slots__ = ("__weakref__",)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock) -> RateLimitedLog:
    made = RateLimitedLog("things")
    made.clock = clock
    return made


def test_one_line_a_name_and_minute_with_the_count(log: RateLimitedLog, clock: Clock) -> None:
    assert log.allow("a") == ""
    clock.now += 59.9
    assert [log.allow("a") for _ in range(500)] == [None] * 500
    # Another name has a minute of its own.
    assert log.allow("b") == ""
    clock.now += 0.1
    assert log.allow("a") == "; 500 more since its last line"
    assert log.allow("a") is None
    clock.now += 60
    assert log.allow("a") == "; 1 more since its last line"
    clock.now += 60
    assert log.allow("a") == ""


def test_several_lines_a_name_and_minute(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sockrpc.server")
    log = RateLimitedLog("things", lines=3, level=logging.INFO)
    log.clock = clock
    assert [log.allow("a") for _ in range(5)] == ["", "", "", None, None]
    clock.now += 59.9
    assert [log.allow("b"), log.allow("a")] == ["", None]
    clock.now += 0.1
    assert [log.allow("a") for _ in range(4)] == ["; 3 more since its last line", "", "", None]
    clock.now += 60
    assert log.allow("b") == ""
    assert caplog.record_tuples == [
        ("sockrpc.server", logging.INFO, "things: 1 more of 'a' since its last line")
    ]


def test_what_was_left_out_is_told_when_another_name_comes(
    log: RateLimitedLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        log.allow("a")
    log.allow("quiet")
    clock.now += 60
    assert log.allow("b") == ""
    # That was the line of this minute about "a".
    assert log.allow("a") is None
    assert caplog.messages == ["things: 2 more of 'a' since its last line"]
    clock.now += 60
    assert log.allow("a") == "; 1 more since its last line"


def test_a_million_names_are_a_few_lines_and_little_memory(
    log: RateLimitedLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    remembered: weakref.WeakSet[Name] = weakref.WeakSet()

    def allow_a_thousand() -> list[str | None]:
        names = [Name(f"{clock.now} {number}") for number in range(1000)]
        remembered.update(names)
        return [log.allow(name) for name in names]

    allowed = allow_a_thousand()
    assert allowed == [""] * NAMES + [None] * (1000 - NAMES)
    assert len(remembered) == NAMES
    told = "things: more than 64 within a minute; %d further ones were not named so far"
    assert caplog.messages == [told % 1]
    clock.now += 60
    # The names of the last minute make room; nothing was left out of them.
    allowed = allow_a_thousand()
    assert allowed == [""] * NAMES + [None] * (1000 - NAMES)
    assert caplog.messages == [told % 1, told % (1000 - NAMES + 1)]
    assert len(remembered) == NAMES


async def call_unknown(raw: RawClient, *names: str) -> None:
    for number, name in enumerate(names):
        await raw.send(request(number, name))
    await raw.synchronize()


async def test_calls_of_methods_that_nobody_registered(
    clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limited_log, "time", SimpleNamespace(monotonic=clock))
    async with serving(sockrpc.App()) as here, await here.raw() as one, await here.raw() as two:
        await call_unknown(one, *["same"] * 50)
        await call_unknown(two, *["same"] * 50)
        (line,) = caplog.messages
        assert line.endswith(" failed: nobody registered method 'same'")
        clock.now += 60
        await call_unknown(two, "same")
        who = two.writer.get_extra_info("sockname")
        told = f"call 0 from {who} failed: nobody registered method 'same'; 99 more since its last line"
        assert caplog.messages[1:] == [told]
        assert here.server.statistics().calls_failed == 101
        caplog.clear()
        await call_unknown(one, *map(str, range(300)))
        assert len(caplog.messages) == NAMES
        assert {record.levelno for record in caplog.records} == {logging.WARNING}


async def test_refused_origins(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(sockrpc.App()) as here:
        for origin in ["https://a.example"] * 5 + ["https://b.example"]:
            with pytest.raises(sockrpc.HandshakeError, match="403"):
                await here.connect(origin=origin)
    assert [message.split("'")[1] for message in caplog.messages] == [
        "https://a.example",
        "https://b.example",
    ]
