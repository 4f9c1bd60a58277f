"""The garbage collector while `sockrpc.run` serves, each time in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from sockrpc.process.event_loop import YOUNG_OBJECTS
from tests.kit.command import Command

# Prints the settings (threshold, number of frozen objects) while it serves, and after.
PROGRAM = """
import asyncio
import gc
import weakref
import sockrpc

def tell():
    print(gc.get_threshold()[0], gc.get_freeze_count(), flush=True)

def started(server):
    tell()
    if {cycle}:
        print(garbage() is None, flush=True)
    server.close()

class Cycle:
    def __init__(self):
        self.itself = self

{before}
sockrpc.run(sockrpc.App(), port=0, on_started=started)
tell()
"""


def settings(folder: Path, before: str, cycle: bool = False) -> list[list[str]]:
    script = folder / "program.py"
    script.write_text(PROGRAM.format(before=before, cycle=cycle))
    with Command(program=(str(script),)) as program:
        lines = [program.line().split() for _ in range(2 + cycle)]
        assert (program.end(), program.log) == (0, [])
    return lines


def test_it_looks_less_often_and_not_at_what_was_there_until_the_server_has_stopped(tmp_path: Path) -> None:
    serving, after = settings(tmp_path, "gc.set_threshold(700, 10, 10)")
    assert int(serving[0]) == YOUNG_OBJECTS
    assert int(serving[1]) > 1000
    assert after == ["700", "0"]


def test_what_was_garbage_is_collected_not_frozen(tmp_path: Path) -> None:
    before = "cycle = Cycle(); garbage = weakref.ref(cycle); del cycle"
    _, is_gone, _ = settings(tmp_path, before, cycle=True)
    assert is_gone == ["True"]


@pytest.mark.parametrize("threshold", ["50000", "0", str(YOUNG_OBJECTS)])
def test_a_threshold_that_is_higher_or_none_stays(tmp_path: Path, threshold: str) -> None:
    serving, after = settings(tmp_path, f"gc.set_threshold({threshold}, 10, 10)")
    assert (serving[0], after[0]) == (threshold, threshold)


def test_a_collector_that_is_off_stays_off(tmp_path: Path) -> None:
    # Python itself may have frozen some of what it began with.
    serving, after = settings(tmp_path, "gc.disable()")
    assert int(serving[1]) < 1000
    assert serving[1] == after[1]


def test_what_was_frozen_before_stays_frozen_and_is_all(tmp_path: Path) -> None:
    serving, after = settings(tmp_path, "gc.freeze()")
    assert int(serving[1]) > 1000
    assert serving[1] == after[1]
