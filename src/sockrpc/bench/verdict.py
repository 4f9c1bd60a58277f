"""The rule that decides whether a benchmark has become slower, independent of how times are measured."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["SIDES", "Attempt", "Outcome", "Result", "lower_quartile", "overall", "ratios"]

# `control` is a second process of the base: its difference from the base is noise.
SIDES = ("base", "control", "head")


class Outcome(enum.StrEnum):
    """The outcome for a benchmark, and for a run as a whole."""

    OK = "ok"
    SLOWER = "slower"
    INCONCLUSIVE = "inconclusive"


def lower_quartile(values: Sequence[float]) -> float:
    """Return the value that a quarter of the others are below."""
    return sorted(values)[len(values) // 4]


def ratios(new: Sequence[float], old: Sequence[float]) -> tuple[float, float]:
    """Return the ratios of the times: by the minima, and by the lower quartiles."""
    return min(new) / min(old), lower_quartile(new) / lower_quartile(old)


@dataclass(frozen=True)
class Attempt:
    """The rounds of one benchmark with one set of processes.

    Attributes:
        loops: Operations in a round.
        rounds: For each side, the seconds of one operation in each round, in order.
        limit: How much slower it may be; 0.1 is ten per cent.
    """

    loops: int
    rounds: dict[str, list[float]]
    limit: float

    @property
    def change(self) -> tuple[float, float]:
        """The head's times divided by the base's."""
        return ratios(self.rounds["head"], self.rounds["base"])

    @property
    def noise(self) -> tuple[float, float]:
        """The control's times divided by the base's."""
        return ratios(self.rounds["control"], self.rounds["base"])

    @property
    def is_slower(self) -> bool:
        """True if both statistics exceed the limit, because one alone is misled too often."""
        return min(self.change) > 1 + self.limit

    @property
    def is_noisy(self) -> bool:
        """True if the same rule finds a difference, in either direction, where there is none."""
        noise = self.noise
        return min(noise) > 1 + self.limit or max(noise) < 1 / (1 + self.limit)


@dataclass
class Result:
    """All attempts at one benchmark."""

    name: str
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def outcome(self) -> Outcome:
        """SLOWER only if two quiet attempts say so; one that is quiet and not slower acquits."""
        quiet = [attempt for attempt in self.attempts if not attempt.is_noisy]
        if any(not attempt.is_slower for attempt in quiet):
            return Outcome.OK
        return Outcome.SLOWER if len(quiet) >= 2 else Outcome.INCONCLUSIVE


def overall(results: Sequence[Result], incomparable: Sequence[str] = ()) -> Outcome:
    """Combine the outcomes; an inconclusive or incomparable benchmark makes the run inconclusive."""
    outcomes = {result.outcome for result in results}
    if incomparable or Outcome.INCONCLUSIVE in outcomes:
        return Outcome.INCONCLUSIVE
    return Outcome.SLOWER if Outcome.SLOWER in outcomes else Outcome.OK
