"""Keepalive, deadlines and stalls, judged with a number for a clock."""

from __future__ import annotations

from typing import Any

import pytest

from sockrpc._settings import Settings
from sockrpc.limits import Limits
from sockrpc.websocket.liveness import after_pause, after_ping, closing_by, sweep

pytestmark = pytest.mark.newest

# Times that floats have exactly, so that the edges are sharp; all different, so that none passes for another.
INTERVAL, PONG, STALL, CLOSE = 16.0, 8.0, 32.0, 4.0
JUST = 2.0**-20  # before
OFF: dict[str, Any] = {"ping_interval": None, "ping_timeout": None, "stall_timeout": None}


class Line:
    """A connection that is open and was heard at 100, without a transport and without a clock.

    Args:
        limits: Those that are not the ones above.
    """

    def __init__(self, **limits: Any) -> None:
        times = {
            "ping_interval": INTERVAL,
            "ping_timeout": PONG,
            "stall_timeout": STALL,
            "close_timeout": CLOSE,
        }
        self.settings = Settings(Limits(**{**times, **limits}))
        self.state: dict[str, float] = dict.fromkeys(
            (
                "heard",
                "overdue",
                "awaiting_pong",
                "deadline",
                "pinged_at",
                "output_stalled_since",
                "reading_stalled_since",
                "ping_position",
                "left_mark",
                "moved_mark",
                "started_mark",
            ),
            0,
        )
        self.state["last_heard"] = 100.0
        self.facts: dict[str, float] = dict.fromkeys(
            (
                "has_ended",
                "is_brief",
                "has_grace",
                "write_paused",
                "reading_held",
                "parsing_stopped",
                "written",
                "left",
                "moved",
                "left_queue",
            ),
            0,
        )

    def sweep(self, now: float, **facts: float) -> tuple[str, bool]:
        """One sweep, at which these facts are new: the verdict, and whether a ping is due.

        What has left has moved, unless `moved` is given.
        """
        self.facts |= {"moved": facts.get("left", self.facts["moved"])} | facts
        self.state, verdict, is_due = sweep(self.state, self.facts, self.settings, now)
        return verdict, is_due

    def verdict(self, now: float, **facts: float) -> str:
        """What two sweeps at the same time carry out; the first only finds it."""
        assert self.sweep(now, **facts)[0] == ""
        return self.sweep(now)[0]

    def close(self, deadline: float) -> None:
        self.state = closing_by(self.state, deadline)
        self.facts["has_ended"] = True

    def ping(self, now: float, *, left: int = 0, position: int = 0) -> None:
        self.state = after_ping(self.state, left, position, now)


# Pings


def test_a_ping_is_due_after_ping_interval_of_silence() -> None:
    line = Line()
    assert line.sweep(100 + INTERVAL - JUST) == ("", False)
    assert line.sweep(100 + INTERVAL) == ("", True)


def test_silence_is_counted_from_the_sweep_that_finds_that_something_came() -> None:
    line = Line()
    line.state["heard"] = True
    assert line.sweep(100 + INTERVAL) == ("", False)
    assert not line.state["heard"]
    assert line.sweep(100 + 2 * INTERVAL - JUST) == ("", False)
    assert line.sweep(100 + 2 * INTERVAL) == ("", True)


@pytest.mark.parametrize("why", ["no interval", "output is blocked", "a pong is awaited"])
def test_no_ping_is_due_where_it_makes_no_sense(why: str) -> None:
    line = Line(**OFF) if why == "no interval" else Line(ping_timeout=None)
    if why == "a pong is awaited":
        line.ping(100)
    facts = {"write_paused": why == "output is blocked"}
    assert line.sweep(100 + INTERVAL, **facts) == ("", False)


def test_while_reading_is_held_pings_go_on_although_no_pong_can_come() -> None:
    line = Line()
    line.ping(120)
    assert line.sweep(120 + INTERVAL - JUST, reading_held=True) == ("", False)
    assert line.sweep(120 + INTERVAL) == ("", True)


# Pongs


def test_a_ping_that_nothing_answers_is_the_end_after_ping_timeout() -> None:
    line = Line()
    line.ping(120)
    assert line.verdict(120 + PONG - JUST) == ""
    assert line.verdict(120 + PONG) == "keepalive: no answer to a ping in time"


def test_whatever_was_heard_is_an_answer() -> None:
    line = Line()
    line.ping(120)
    assert line.sweep(120 + PONG) == ("", False)
    line.state["heard"] = True
    assert line.sweep(120 + PONG) == ("", False)
    assert line.state["last_heard"] == 120 + PONG
    assert line.verdict(120 + PONG + INTERVAL - JUST) == ""


@pytest.mark.parametrize("why", ["no timeout", "reading is held", "output is blocked"])
def test_no_pong_is_missed_where_none_can_be_expected(why: str) -> None:
    line = Line(stall_timeout=None, **({"ping_timeout": None} if why == "no timeout" else {}))
    line.ping(120)
    facts = {"reading_held": why == "reading is held", "write_paused": why == "output is blocked"}
    assert line.verdict(1000, **facts) == ""


def test_the_time_of_a_ping_runs_while_what_stood_before_it_does_not_move() -> None:
    line = Line()
    line.ping(120, left=50, position=100)
    assert line.sweep(124, written=100, left=60) == ("", False)
    assert line.state["pinged_at"] == 124
    # The last piece before it, and the ping itself, leave together.
    assert line.sweep(126, left=100) == ("", False)
    assert line.state["pinged_at"] == 126
    # What leaves behind the ping gives no more time.
    assert line.sweep(128, written=200, left=150) == ("", False)
    assert line.state["pinged_at"] == 126
    assert line.verdict(126 + PONG - JUST, left=160) == ""
    assert line.verdict(126 + PONG) == "keepalive: no answer to a ping in time"


def test_a_ping_behind_nothing_is_not_prolonged_by_what_leaves() -> None:
    line = Line()
    line.ping(120, left=100, position=0)
    assert line.verdict(120 + PONG, written=300, left=200) == "keepalive: no answer to a ping in time"


def test_a_ping_is_prolonged_by_what_has_left_only() -> None:
    line = Line()
    line.ping(120, left=50, position=100)
    line.sweep(124, written=100, left=50, moved=60)
    assert line.state["pinged_at"] == 120


def test_after_a_pause_of_reading_silence_begins_anew() -> None:
    line = Line()
    line.ping(120)
    line.sweep(125, reading_held=True, parsing_stopped=True)
    assert line.state["reading_stalled_since"] == 125
    line.state = after_pause(line.state, 200)
    assert line.sweep(200 + INTERVAL - JUST, reading_held=False, parsing_stopped=False) == ("", False)
    assert line.sweep(200 + INTERVAL) == ("", True)
    assert line.state["reading_stalled_since"] == 0


# Two sweeps


def test_a_verdict_is_carried_out_by_the_second_sweep_that_finds_it() -> None:
    line = Line()
    line.ping(120)
    assert line.sweep(500) == ("", False)
    # A loop that was blocked has read what had come in the meantime.
    line.state["heard"] = True
    assert line.sweep(501) == ("", False)
    line.ping(520)
    assert line.sweep(600)[0] == ""
    assert line.sweep(600)[0] == "keepalive: no answer to a ping in time"


# Stalls


def test_output_that_does_not_move_is_the_end_after_stall_timeout() -> None:
    line = Line()
    line.sweep(110, write_paused=True, written=1000, left=10)
    line.sweep(120, left=11)
    # More that is written is no progress.
    assert line.verdict(120 + STALL - JUST, written=2000) == ""
    assert line.verdict(120 + STALL) == "stalled: the peer does not read"


def test_output_that_moves_has_not_stalled_although_the_transport_tells_of_nothing_that_left() -> None:
    # TLS: it does not tell what it has encrypted and not written.
    line = Line()
    line.sweep(110, write_paused=True, written=1000, left=10, moved=5)
    line.sweep(120, moved=6)
    assert line.verdict(120 + STALL - JUST) == ""
    assert line.verdict(120 + STALL) == "stalled: the peer does not read"


def test_output_that_goes_on_has_not_stalled() -> None:
    line = Line()
    line.sweep(110, write_paused=True, written=1000)
    line.sweep(120, write_paused=False)
    line.sweep(130, write_paused=True)
    assert line.verdict(130 + STALL - JUST) == ""
    assert line.verdict(130 + STALL) == "stalled: the peer does not read"


def test_a_queue_that_does_not_move_is_the_end_after_stall_timeout() -> None:
    line = Line(ping_interval=None)
    line.sweep(110, parsing_stopped=True, reading_held=True, left_queue=7)
    line.sweep(120, left_queue=8)
    assert line.verdict(120 + STALL - JUST) == ""
    assert line.verdict(120 + STALL) == "stalled: the waiting queue does not move"


def test_a_queue_that_lets_reading_go_on_has_not_stalled() -> None:
    line = Line(ping_interval=None)
    line.sweep(110, parsing_stopped=True)
    line.sweep(120, parsing_stopped=False)
    line.sweep(130, parsing_stopped=True)
    assert line.verdict(130 + STALL - JUST) == ""
    assert line.verdict(130 + STALL) == "stalled: the waiting queue does not move"


def test_a_queue_that_stands_behind_blocked_output_is_the_fault_of_a_peer_that_does_not_read() -> None:
    line = Line()
    line.sweep(110, parsing_stopped=True)
    line.sweep(120, write_paused=True)
    assert line.verdict(110 + STALL) == "stalled: the peer does not read"


def test_without_a_stall_timeout_nothing_is_the_end_of_it() -> None:
    line = Line(**OFF)
    line.sweep(110, parsing_stopped=True, write_paused=True)
    assert line.verdict(1e6) == ""


# Deadlines


@pytest.mark.parametrize(
    ("has_ended", "verdict"), [(False, "no opening handshake in time"), (True, "not closed in time")]
)
def test_a_deadline_is_the_end_when_it_has_come(has_ended: bool, verdict: str) -> None:
    line = Line(**OFF)
    line.state["deadline"] = 110.0
    assert line.verdict(110 - JUST, has_ended=has_ended) == ""
    assert line.verdict(110) == verdict


def test_nothing_else_is_judged_before_a_deadline() -> None:
    line = Line()
    line.ping(100)
    line.sweep(100, write_paused=True, parsing_stopped=True)
    line.state["deadline"] = 1000.0
    assert line.verdict(1000 - JUST, write_paused=False) == ""
    assert line.verdict(1000) == "no opening handshake in time"


def test_what_still_leaves_prolongs_the_closing_by_close_timeout() -> None:
    line = Line(**OFF)
    line.close(110)
    # The first sweep finds out what is still here.
    line.sweep(107, written=1000, left=300)
    assert line.state["deadline"] == 110
    line.sweep(108, left=400)
    assert line.state["deadline"] == 108 + CLOSE
    # So does the last of it.
    line.sweep(109, left=1000)
    assert line.state["deadline"] == 109 + CLOSE
    assert line.verdict(109 + CLOSE - JUST) == ""
    assert line.verdict(109 + CLOSE) == "not closed in time"


def test_what_moves_prolongs_the_closing_although_the_transport_tells_of_nothing_that_left() -> None:
    line = Line(**OFF)
    line.close(110)
    line.sweep(107, written=1000, left=300, moved=5)
    line.sweep(108, moved=6)
    assert line.state["deadline"] == 108 + CLOSE


def test_progress_does_not_shorten_a_deadline() -> None:
    line = Line(**OFF)
    line.close(200)
    line.sweep(108, written=1000, left=300)
    line.sweep(109, left=400)
    assert line.state["deadline"] == 200


@pytest.mark.parametrize(
    ("before", "then", "why"),
    [
        ({"left": 300}, {"left": 300}, "nothing has left"),
        ({"left": 1000}, {"moved": 7}, "all had left before, and only the peer's end is awaited"),
        ({"left": 300, "is_brief": True}, {"left": 400}, "it was refused before its request came"),
    ],
)
def test_a_closing_is_not_prolonged_where(before: dict[str, float], then: dict[str, float], why: str) -> None:
    line = Line(**OFF)
    line.close(110)
    line.sweep(108, written=1000, **before)
    line.sweep(109, **then)
    assert line.state["deadline"] == 110, why


def test_who_has_grace_needs_no_progress() -> None:
    line = Line(**OFF)
    line.close(110)
    line.sweep(110, has_grace=True, written=1000)
    assert line.state["deadline"] == 110 + CLOSE
    assert line.verdict(1000) == ""
    assert line.verdict(1000 + CLOSE, has_grace=False) == "not closed in time"
