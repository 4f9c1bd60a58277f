"""The server is tortured (see `__main__.py`); `python -m tests.torture --round SEED:N` repeats a round."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sockrpc._debug import is_debug
from tests.conftest import LOOPS
from tests.processes import ROOT
from tests.torture.events import SCENARIOS
from tests.torture.iterations import measure

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="descriptors are counted in /proc")

# The longest iteration of the loop, in milliseconds, and how often a noisy machine may try.
LONGEST = 10.0
TIMES = 3


def torture(seconds: float) -> None:
    command = [sys.executable, "-m", "tests.torture", "--seconds", str(seconds)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0


@pytest.mark.torture
@pytest.mark.timeout(240)
def test_thirty_seconds_of_torture_leave_nothing_behind() -> None:
    torture(30.0)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_ten_minutes_of_torture_leave_nothing_behind() -> None:
    torture(600.0)


@pytest.mark.hostile
@pytest.mark.skipif(is_debug(), reason="what checks each step takes more time than the steps")
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_no_iteration_of_the_loop_takes_longer_than_ten_milliseconds(name: str, loop: str) -> None:
    took = []
    for _ in range(TIMES):
        took.append(measure(name, loop))
        if took[-1] <= LONGEST:
            break
    print(f"{name} on {loop}: {min(took):.1f} ms")
    assert min(took) <= LONGEST
