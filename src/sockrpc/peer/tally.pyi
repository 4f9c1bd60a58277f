from typing import NamedTuple

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
