from typing import Final, NamedTuple

class Histogram(NamedTuple):
    counts: tuple[int, ...]
    seconds: float
    @property
    def total(self) -> int: ...
    @property
    def bounds(self) -> tuple[float, ...]: ...

class MethodStatistics(NamedTuple):
    in_flight: int
    answered: int
    failed: int
    reset: int
    lost: int
    timed_out: int
    stopped: int
    answers: Histogram
    unwinding: Histogram

def histogram_of(seconds: list[float]) -> Histogram: ...

class Ending(NamedTuple):
    """A way in which a call may end for its client.

    Attributes:
        name: The field of `MethodStatistics`, and with `calls_` before it that of `Statistics`.
        abort_reason: The value of `Call.abort_reason`; None if it is no abort.
    """

    name: str
    abort_reason: str | None = None
    @property
    def label(self) -> str: ...
    @property
    def counter(self) -> str: ...
    @property
    def text(self) -> str: ...

ENDINGS: Final[tuple[Ending, ...]]
