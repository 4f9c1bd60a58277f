"""A script for the engine (test_engine.py), written by a program of bytes."""

from __future__ import annotations

from typing import Any

from tests.kit.engine import Operation
from tests.kit.streams import Program
from tests.peer.test_engine import KINDS, LETTERS, play

MAX_OPERATIONS = 60


def play_program(program: Program) -> None:
    """Play the script that a program writes, in the world that it chooses."""
    how = program.byte()
    high = (300, 1, 80, 300)[how & 3]
    limits: dict[str, Any] = {
        "max_in_flight": 1 + (how >> 2 & 1),
        "max_waiting_calls": 3 if how & 8 else 1,
        "max_held_bytes": 1000 if how & 16 else 10,
        "max_notifications": 1,
        "output_high_bytes": high,
        "output_low_bytes": high // 3,
        "output_max_bytes": high * 4,
        "stall_timeout": 3.0 if how & 32 else None,
        "ping_interval": 2.0 if how & 64 else None,
        "stop_grace": 3.0,
        "abort_grace": 2.0,
        "close_timeout": 2.0,
    }
    where = program.byte()
    options = {
        "socket_form": bool(where & 1),
        "raw": where >> 1 & 1,
        "capacity": (10_000, 1, 50, 10_000)[where >> 2 & 3],
        "limits": limits,
    }
    script: list[Operation] = []
    while program and len(script) < MAX_OPERATIONS:
        kind = program.pick(KINDS)
        one, two = program.byte() & 63, program.byte() & 63
        letters = program.byte() & 3 if kind in ("call", "reuse", "brief", "notify", "lose") else 0
        script.append((kind, one, two, "".join(program.pick(LETTERS) for _ in range(letters))))
    play("asyncio", script, bool(where & 16), options)
