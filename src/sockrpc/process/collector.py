"""The cyclic garbage collector of a process that does nothing but serve."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["YOUNG_OBJECTS", "collector_for_serving"]

# So many new objects of which any could be part of a cycle are worth a look. A suspended call is about ten:
# Python's own 700 (2,000 since 3.13) make a few hundred calls in flight look like garbage all the time.
YOUNG_OBJECTS = 10_000

# Python 3.12 itself begins with some hundred frozen objects; more were frozen by the process.
FROZEN_BY_PYTHON = 1000


@contextlib.contextmanager
def collector_for_serving() -> Iterator[None]:
    """Until the end of the block, look for garbage less often, and not among what is there already.

    What the process has set itself is left alone: a higher threshold, a collector that is off, and what is
    frozen already, as there is no way to unfreeze only the rest.
    """
    threshold, *others = gc.get_threshold()
    raised = 0 < threshold < YOUNG_OBJECTS
    freezes = gc.isenabled() and gc.get_freeze_count() < FROZEN_BY_PYTHON
    if raised:
        gc.set_threshold(YOUNG_OBJECTS, *others)
    if freezes:
        # Not to keep what is garbage now for ever.
        gc.collect()
        gc.freeze()
    try:
        yield
    finally:
        if freezes:
            gc.unfreeze()
        if raised:
            gc.set_threshold(threshold, *others)
