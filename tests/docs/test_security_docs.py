"""docs/explanation/security.md: each limit against a peer, with its default."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sockrpc.limits import LIMITS

pytestmark = pytest.mark.newest

FOLDER = Path(__file__).parents[2] / "docs" / "explanation"
TEXT = (FOLDER / "security.md").read_text("utf-8")
DEFAULTS = {limit.name: limit.default for limit in LIMITS.values()}
UNITS = {"": 1, "KiB": 1024, "MiB": 1024**2, "s": 1}

# What no peer has a say in: stopping, threads, where output goes on again, what is said of a blocked loop.
NOT_AGAINST_PEERS = {"stop_grace", "abort_grace", "max_threads", "output_low_bytes", "blocked_warning"}


def rows() -> list[list[str]]:
    table = TEXT.partition("## Threats")[2].partition("\n\nA handler's exception")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]


def value(text: str) -> float | None:
    number, _, unit = text.replace(",", "").partition(" ")
    return None if text in ("from the system", "none") else float(number) * UNITS[unit]


def test_each_default_is_the_one_that_there_is() -> None:
    told: set[str] = set()
    for row in rows():
        _, what, defaults, _ = row
        limits = [name for name in re.findall(r"`(\w+)`", what) if name in DEFAULTS]
        told.update(limits)
        assert [value(each) for each in defaults.split("; ") if each] == [
            DEFAULTS[name] for name in limits
        ], row
    assert told == DEFAULTS.keys() - NOT_AGAINST_PEERS
