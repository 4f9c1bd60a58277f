"""What measurements of promises share: a promise with its measured value, and figures of rounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.arena import Arena, Contender, Result, Rounds
from bench.tables import number, paired_ratio, spread

CONNECTIONS, IN_FLIGHT = 64, 16
FEWEST_ROUNDS = 15
RATE = ("answers_per_second",)


@dataclass(frozen=True)
class Target:
    """A promise, and the measured value."""

    name: str
    value: float
    bound: float
    at_least: bool
    spread: float | None = None

    @property
    def is_met(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def row(self) -> list[str]:
        sign = "≥" if self.at_least else "≤"
        wide = "" if self.spread is None else f"{self.spread:.0%}"
        return [
            self.name,
            number(self.value),
            f"{sign} {number(self.bound)}",
            "yes" if self.is_met else "NO",
            wide,
        ]


@dataclass(frozen=True)
class Settings:
    """The duration of all measurements."""

    rounds: int
    seconds: float
    connections: int
    calls: int


Measured = tuple[list[Target], Rounds]


def values(rounds: Rounds, name: str, *path: str) -> list[float]:
    """Return one figure of each round."""
    figures: list[float] = []
    for result in rounds[name]:
        value: Any = result
        for key in path:
            value = value[key]
        figures.append(float(value))
    return figures


def compared(
    rounds: Rounds,
    what: str,
    ours: str,
    other: str,
    path: tuple[str, ...],
    bound: float,
    *,
    at_least: bool = True,
) -> Target:
    mine, its = values(rounds, ours, *path), values(rounds, other, *path)
    ratios = [a / b for a, b in zip(mine, its, strict=True)]
    return Target(what, paired_ratio(mine, its), bound, at_least, spread(ratios))


def calls(here: Arena, contender: Contender, settings: Settings, **options: object) -> Callable[[], Result]:
    here.port(contender)
    return partial(here.calls, contender, seconds=settings.seconds, **options)
