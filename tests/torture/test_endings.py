"""With the collector of garbage off, lost connections leave nothing that has a size, and no cycle."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.kit.loops import LOOPS
from tests.kit.processes import ROOT
from tests.torture.endings import CYCLES, MEMORY

pytestmark = [
    pytest.mark.torture,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]

# A thousand lost connections, each with a MiB pending, may leave so much.
MIB_AT_MOST = 20


def run(*arguments: str) -> Any:
    command = [sys.executable, "-m", "tests.torture.endings", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("what", MEMORY)
def test_lost_connections_give_their_memory_back_without_the_collector(what: str, loop: str) -> None:
    assert run("memory", what, loop) <= MIB_AT_MOST


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("role", CYCLES)
def test_lost_connections_are_freed_without_the_collector(role: str, loop: str) -> None:
    assert run("cycles", role, loop) == {}
