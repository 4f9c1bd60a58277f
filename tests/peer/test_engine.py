"""The engine under random interleavings, held to the architecture's proof obligations.

Everything is in memory and time stands still between operations, so a failure is reproduced by its
script alone. SOCKRPC_EXAMPLES=5000 runs that many new scripts of each kind instead of the usual ones, and so
does --hypothesis-profile=long.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sockrpc.peer.table import live_entries
from sockrpc.websocket.loop import live_contexts
from tests.kit.clock import new_still_loop
from tests.kit.engine import Operation, World
from tests.kit.handlers import INTENDED
from tests.kit.loops import LOOPS
from tests.kit.properties import how_many, is_long

EXAMPLES = int(os.environ.get("SOCKRPC_EXAMPLES") or (5000 if is_long() else 0))

PROFILE = settings(
    max_examples=EXAMPLES or how_many(200),
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)

# How often each kind of operation comes up; the simplest stands first, as failures are shrunk to it.
KINDS = (
    ["turn"] * 8
    + ["flow"] * 5
    + ["up"] * 10
    + ["call"] * 9
    + ["release"] * 6
    + ["down"] * 4
    + ["cancel"] * 5
    + ["reuse"] * 2
    + ["brief"] * 2
    + ["answer"] * 2
    + ["event"] * 2
    + ["notify"] * 2
    + ["advance", "lose", "join", "stop"]
)
LETTERS = "wsrfukacxzXUtgqvNnoOl"

OPERATIONS = st.tuples(
    st.sampled_from(KINDS),
    st.integers(0, 63),
    st.integers(0, 63),
    st.text(LETTERS, max_size=4),
)
SCRIPTS = st.integers(0, 60).flatmap(lambda n: st.lists(OPERATIONS, min_size=n, max_size=n))
LIMITS = st.fixed_dictionaries(
    {
        "max_in_flight": st.integers(1, 3),
        "max_waiting_calls": st.sampled_from([3, 1, 5]),
        "max_held_bytes": st.sampled_from([1000, 10]),
        "max_notifications": st.integers(1, 2),
        "output_high_bytes": st.sampled_from([300, 1, 80]),
        "stall_timeout": st.sampled_from([None, 3.0]),
        "ping_interval": st.sampled_from([None, 2.0]),
    }
)


@contextlib.contextmanager
def intended_failures_only() -> Iterator[None]:
    """Handlers fail on purpose here; what is logged must be about them."""
    odd: list[str] = []

    class Reader(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[1] if record.exc_info else None
            if error is not None and not isinstance(error, asyncio.CancelledError) and str(error) != INTENDED:
                odd.append(logging.Formatter().format(record))

    logger = logging.getLogger("sockrpc")
    reader = Reader()
    logger.addHandler(reader)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(reader)
        logger.propagate = True
        assert not odd, odd[0]


def play(kind: str, script: list[Operation], patient: bool, options: dict[str, Any]) -> None:
    """Play one script in a world of its own."""
    if live_entries():
        # A script that failed before has left its world behind.
        gc.collect()
    loop = new_still_loop(kind)
    unexpected: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: unexpected.append(context))

    async def run() -> None:
        world = World(**options)
        await world.play(script)
        await world.finish(patient=patient)

    try:
        asyncio.set_event_loop(loop)
        with intended_failures_only():
            loop.run_until_complete(run())
        left = asyncio.all_tasks(loop)
        contexts = live_contexts()
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    assert not unexpected, f"exceptions reached the loop's handler: {unexpected}"
    assert not left, f"tasks were left behind: {left}"
    assert contexts == 0, "connections or servers were left on the loop"


@pytest.mark.timeout(0 if EXAMPLES else 120)
@pytest.mark.usefixtures("caplog")
@pytest.mark.parametrize("form", ["app", "socket"])
@pytest.mark.parametrize("kind", LOOPS)
@PROFILE
@given(
    script=SCRIPTS,
    limits=LIMITS,
    capacity=st.sampled_from([10_000, 1, 50]),
    raw=st.integers(0, 1),
    patient=st.booleans(),
)
def test_any_interleaving_keeps_the_obligations(
    kind: str,
    form: str,
    script: list[Operation],
    limits: dict[str, Any],
    capacity: int,
    raw: int,
    patient: bool,
) -> None:
    high = limits["output_high_bytes"]
    limits = limits | {
        "output_low_bytes": high // 3,
        "output_max_bytes": high * 4,
        "stop_grace": 3.0,
        "abort_grace": 2.0,
        "close_timeout": 2.0,
    }
    options = {"socket_form": form == "socket", "raw": raw, "capacity": capacity, "limits": limits}
    play(kind, script, patient, options)
