"""The property of `sockrpc.v1`: two engines that call each other, through random interleavings.

The rules were model checked before (PROTOCOL.md); here the engine itself is held to them at every step.
All is in memory and time stands still between operations, so a script or a seed alone repeats a failure.
SOCKRPC_SEED=N plays that one scenario of the seeds; --hypothesis-profile=long plays many more.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sockrpc.peer.table import live_entries
from sockrpc.websocket.loop import live_contexts
from tests.conftest import LOOPS
from tests.kit.clock import new_still_loop
from tests.kit.handlers import INTENDED
from tests.kit.properties import is_long
from tests.kit.v1_world import Operation, World

# Beside the first ones those that have caught a deadline that outlived its call, and an end that left early.
USUAL = (*range(60), 90, 281)
SEEDS = (
    [int(os.environ["SOCKRPC_SEED"])]
    if "SOCKRPC_SEED" in os.environ
    else range(6_000)
    if is_long()
    else USUAL
)
EXAMPLES = 3000 if is_long() else 60

# How often each kind of operation comes up; the simplest stands first, as failures are shrunk to it.
KINDS = (
    ["turn"] * 8
    + ["flow"] * 5
    + ["up"] * 6
    + ["down"] * 6
    + ["call"] * 10
    + ["release"] * 6
    + ["cancel"] * 4
    + ["brief"] * 2
    + ["advance"] * 2
    + ["notify", "lose", "goaway"]
)
THEIRS = "wsytayniudzxfecrbd"
OURS = "wtpbdtm"
LIMITS: dict[str, list[Any]] = {
    "max_in_flight": [2, 1, 4],
    "max_calls": [4, 2, 1, 100],
    "max_held_bytes": [10_000_000, 700_000],
    "window_bytes": [65_536, 150_000],
    "output_high_bytes": [100_000, 1_000],
}
WINDOWS = [65_536, 100_000]
CAPACITIES = [64 * 1024, 3_000, 50]

OPERATIONS = st.tuples(
    st.sampled_from(KINDS),
    st.integers(0, 63),
    st.integers(0, 63),
    st.text(THEIRS, max_size=5),
    st.text(OURS, max_size=3),
)
SCRIPTS = st.integers(0, 60).flatmap(lambda n: st.lists(OPERATIONS, min_size=n, max_size=n))


@contextlib.contextmanager
def intended_failures_only() -> Iterator[None]:
    """Handlers fail on purpose here; what is logged must be about them."""
    odd: list[str] = []

    class Reader(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[1] if record.exc_info else None
            text = record.getMessage()
            if INTENDED in str(error) or "nobody registered" in text or "dropped" in text:
                return
            if error is None or isinstance(error, asyncio.CancelledError):
                return
            # What a nested call has failed with, or an answer of a handler that was not waited for.
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


def limits_of(chosen: dict[str, Any]) -> dict[str, Any]:
    high = chosen["output_high_bytes"]
    return chosen | {
        "output_low_bytes": high // 3,
        "output_max_bytes": 4_000_000,
        "stall_timeout": None,
        "ping_interval": None,
        "stop_grace": 30.0,
        "abort_grace": 2.0,
        "close_timeout": 2.0,
    }


@pytest.mark.usefixtures("caplog")
@pytest.mark.parametrize("kind", LOOPS)
@settings(
    max_examples=EXAMPLES,
    derandomize=not is_long(),
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
@given(
    script=SCRIPTS,
    limits=st.fixed_dictionaries({name: st.sampled_from(values) for name, values in LIMITS.items()}),
    window=st.sampled_from(WINDOWS),
    capacity=st.sampled_from(CAPACITIES),
    patient=st.booleans(),
)
def test_any_interleaving_of_two_engines_keeps_the_rules(
    kind: str, script: list[Operation], limits: dict[str, Any], window: int, capacity: int, patient: bool
) -> None:
    options = {"limits": limits_of(limits), "window": window, "capacity": capacity}
    play(kind, script, patient, options)


def scenario(seed: int) -> tuple[list[Operation], bool, dict[str, Any]]:
    """A longer script than Hypothesis makes, from a seed."""
    dice = random.Random(seed)

    def operations(kinds: list[str], count: int) -> list[Operation]:
        return [
            (
                dice.choice(kinds),
                dice.randrange(64),
                dice.randrange(64),
                "".join(dice.choices(THEIRS, k=dice.randrange(6))),
                "".join(dice.choices(OURS, k=dice.randrange(4))),
            )
            for _ in range(count)
        ]

    # A line that is lost, or an end that leaves, comes late in most scripts.
    script = operations([each for each in KINDS if each not in ("lose", "goaway")], dice.randrange(40, 250))
    if seed % 2:
        script += operations([*KINDS, "lose"] + ["goaway", "cancel", "flow"] * 4, dice.randrange(60))
    limits = {name: dice.choice(values) for name, values in LIMITS.items()}
    options = {
        "limits": limits_of(limits),
        "window": dice.choice(WINDOWS),
        "capacity": dice.choice(CAPACITIES),
    }
    return script, dice.random() < 0.7, options


@pytest.mark.usefixtures("caplog")
@pytest.mark.parametrize("kind", LOOPS)
def test_long_scripts_from_seeds_keep_the_rules(kind: str) -> None:
    for seed in SEEDS:
        script, patient, options = scenario(seed)
        try:
            play(kind, script, patient, options)
        except BaseException as error:
            error.add_note(f"SOCKRPC_SEED={seed}")
            raise
