"""Handlers that block the loop, or that ignore their cancel: somebody is told which it was."""

from __future__ import annotations

import re
import signal
import sys
import time

import pytest

from tests.hostile.attack import MIB, Target, attack, target
from tests.hostile.peer import message, request, reset
from tests.kit.loops import LOOPS

pytestmark = [
    pytest.mark.hostile,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]

THRESHOLD = 0.4


def line_about(there: Target, text: str) -> str:
    """The only line, which the watching thread writes some time after the block has ended."""
    deadline = time.monotonic() + 5
    while not (found := [line for line in there.lines() if text in line]):
        assert time.monotonic() < deadline, there.lines()
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(("method", "where"), [("block", "block"), ("block_later", "crunch")])
def test_a_handler_that_blocks_the_loop_is_named(loop: str, method: str, where: str) -> None:
    with target(loop, blocked_warning=THRESHOLD) as there, there.peer() as peer:
        begun = time.monotonic()
        peer.call(17, method, b"0.8")
        took = time.monotonic() - begun
        port = peer.line.getsockname()[1]
        line = line_about(there, "blocked the event loop")
        match = re.fullmatch(
            rf"WARNING sockrpc\.server: method '{method}' \(call 17 of \('127\.0\.0\.1', {port}\)\)"
            rf" blocked the event loop for (\d\.\d) s, at server\.py:\d+ in {where}",
            line,
        )
        assert match, line
        assert 0.8 - THRESHOLD / 4 - 0.05 <= float(match[1]) <= took + 0.05


def test_a_handler_of_an_event_that_blocks_the_loop_is_named() -> None:
    with target(blocked_warning=THRESHOLD) as there, there.peer() as peer:
        peer.send(message(b"\x01\x0bblock_event0.8"))
        line = line_about(there, "blocked the event loop")
        assert "the handler of event 'block_event' of ('127.0.0.1', " in line
        assert " in crunch" in line


def test_a_block_that_does_not_end_is_told_while_it_lasts() -> None:
    with target(blocked_warning=0.2) as there, there.peer() as peer:
        peer.call(1, "block", b"1.5")
        assert " blocks the event loop, for " in line_about(there, "blocks the event loop")
        line_about(there, "blocked the event loop")


@pytest.mark.parametrize("off", [None, 0])
def test_nobody_is_named_where_it_is_switched_off(off: float | None) -> None:
    with target(blocked_warning=off) as there, there.peer() as peer:
        assert not [name for name in peer.report()["threads"] if "watch" in name]
        peer.call(1, "block", b"1.2")
        assert there.lines() == []


def test_the_watching_thread_is_one_and_costs_next_to_nothing() -> None:
    with target() as there, there.peer() as peer:
        assert len([name for name in peer.report()["threads"] if "watch" in name]) == 1
        # Four times a second it asks, and the loop answers: some hundred microseconds.
        assert round(there.cpu_used_in(1.5), 3) <= 0.02


def test_neither_an_idle_loop_nor_short_work_nor_a_stopped_process_is_a_block() -> None:
    with target(blocked_warning=0.2) as there, there.peer() as peer:
        # Less than the threshold, many times in a row.
        for id in range(1, 8):
            peer.send(request(id, "block", b"0.1"))
        peer.call(8, "echo")
        there.process.send_signal(signal.SIGSTOP)
        assert there.cpu_used_in(0.8) == 0.0
        there.process.send_signal(signal.SIGCONT)
        peer.call(9, "echo")
        assert there.cpu_used_in(0.5) <= 0.05
        # What is told is told in order: this one is the only one.
        peer.call(10, "block", b"0.35")
        assert "(call 10 of " in line_about(there, "the event loop")


def test_handlers_that_ignore_their_cancel_hold_their_slots_and_nobody_else() -> None:
    limit = 100
    with target(max_in_flight=limit, abort_grace=0.2, stop_grace=0.2) as there, there.peer() as peer:
        with attack(there, within=5.0, grows=2 * MIB):
            parts = [request(id, "stubborn") + reset(id) for id in range(1, 100_001)]
            peer.flood(b"".join(parts[n : n + 1000]) for n in range(0, len(parts), 1000))
            counts = there.until(lambda counts: counts["calls_reset"] == len(parts))
        # Aborted work counts until it has ended: the others left the queue and never started.
        assert counts["calls_running"] == limit + 1
        assert counts["calls_started"] < limit + counts["calls_answered"] + 10
        # The connection's own slots are taken ...
        peer.send(request(200_001, "echo"))
        assert there.until(lambda counts: counts["procedures_waiting"] == 1)
        # ... and free when the work ends.
        with there.peer() as other:
            other.call(1, "relent")
        assert peer.call(200_002, "echo", b"again") == b"again"
        assert there.lines() == []


def test_handlers_that_ignore_their_cancel_are_named_at_the_stop() -> None:
    with target(abort_grace=0.2, stop_grace=0.2) as there, there.peer() as peer:
        peer.send(request(1, "stubborn"))
        there.until(lambda counts: counts["calls_running"] == 2)
        begun = time.monotonic()
        lines = there.stop()["lines"]
        assert time.monotonic() - begun < 4.0
        assert [level for level, _, _ in lines] == ["ERROR"]
        assert "method 'stubborn' has not ended" in lines[0][2]
