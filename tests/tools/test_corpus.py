"""What the fuzzers have found, and what they start from, once more: no target disagrees with its oracle.

`tests/corpus/TARGET/` holds what was found, each file named by what it shows.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.kit.fuzz_targets import TARGETS, seeds

pytestmark = pytest.mark.newest

CORPUS = Path(__file__).parents[1].joinpath("corpus")
FOUND = sorted(path for path in CORPUS.glob("*/*") if path.is_file())
SEEDS = [(target, name) for target in TARGETS for name in seeds(target)]


@pytest.mark.usefixtures("caplog")
@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_was_found_stays_mended(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.usefixtures("caplog")
@pytest.mark.parametrize("target", TARGETS)
def test_seeds_and_their_mutations(target: str) -> None:
    # Without coverage this finds little; it holds the targets themselves to what they promise.
    some = random.Random(1)
    for data in seeds(target).values():
        TARGETS[target](data)
        for _ in range(2 if target == "engine" else 10):
            mutated = bytearray(data)
            for _ in range(some.randrange(1, 4)):
                at = some.randrange(len(mutated) + 1)
                mutated[at : at + some.randrange(3)] = some.randbytes(some.randrange(3))
            TARGETS[target](bytes(mutated))


def test_every_folder_of_the_corpus_is_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= set(TARGETS)
    assert FOUND
