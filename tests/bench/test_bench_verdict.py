"""When a benchmark counts as slower, and when nobody is blamed."""

from __future__ import annotations

import pytest

from sockrpc.bench.report import duration
from sockrpc.bench.verdict import Attempt, Outcome, Result, lower_quartile, overall, ratios

pytestmark = pytest.mark.newest

LIMIT = 0.10
# The rounds of a base: the minimum is 100, the lower quartile 101.
BASE = [103.0, 100.0, 104.0, 101.0]


def attempt(head: list[float], control: list[float] | None = None) -> Attempt:
    return Attempt(1, {"base": BASE, "control": control or BASE, "head": head}, LIMIT)


def times(factor: float) -> list[float]:
    return [value * factor for value in BASE]


SLOW, SAME, NOISY = attempt(times(1.2)), attempt(BASE), attempt(times(1.2), control=times(1.2))


def test_the_statistics() -> None:
    assert lower_quartile(BASE) == 101.0
    assert lower_quartile([4.0, 1.0, 3.0, 2.0, 5.0, 6.0, 7.0, 8.0]) == 3.0
    assert ratios([200.0, 404.0, 404.0, 404.0], BASE) == (2.0, 4.0)


@pytest.mark.parametrize(("factor", "slower"), [(1.1, False), (1.101, True), (1.0, False), (0.5, False)])
def test_slower_is_above_the_limit_and_not_at_it(factor: float, slower: bool) -> None:
    assert attempt(times(factor)).is_slower is slower


@pytest.mark.parametrize(
    "head", [[100.0, 130.0, 130.0, 130.0], [111.0, 111.0, 111.0, 111.0]], ids=["quartile", "minimum"]
)
def test_one_statistic_alone_is_not_enough(head: list[float]) -> None:
    one = attempt(head)
    assert max(one.change) > 1 + LIMIT
    assert not one.is_slower


@pytest.mark.parametrize(
    ("factor", "noisy"), [(1.2, True), (1.05, False), (1 / 1.2, True), (1 / 1.05, False)]
)
def test_a_base_that_differs_from_itself_either_way_is_noise(factor: float, noisy: bool) -> None:
    assert attempt(BASE, control=times(factor)).is_noisy is noisy


@pytest.mark.parametrize(
    ("attempts", "outcome"),
    [
        ([SAME], Outcome.OK),
        ([SLOW], Outcome.INCONCLUSIVE),
        ([SLOW, SLOW], Outcome.SLOWER),
        ([SLOW, SAME], Outcome.OK),
        ([NOISY], Outcome.INCONCLUSIVE),
        ([NOISY, SAME], Outcome.OK),
        ([NOISY, SLOW], Outcome.INCONCLUSIVE),
        ([NOISY, SLOW, SLOW], Outcome.SLOWER),
        ([SLOW, NOISY, SLOW], Outcome.SLOWER),
        ([NOISY, NOISY, NOISY], Outcome.INCONCLUSIVE),
        ([SLOW, NOISY, NOISY], Outcome.INCONCLUSIVE),
    ],
)
def test_two_quiet_attempts_convict_and_one_acquits(attempts: list[Attempt], outcome: Outcome) -> None:
    assert Result("it", attempts).outcome is outcome


def test_noise_anywhere_is_never_red() -> None:
    slow, same, noisy = Result("a", [SLOW, SLOW]), Result("b", [SAME]), Result("c", [NOISY, NOISY])
    assert overall([same]) is Outcome.OK
    assert overall([same, slow]) is Outcome.SLOWER
    assert overall([same, slow, noisy]) is Outcome.INCONCLUSIVE


def test_what_the_base_can_not_run_leaves_the_question_open() -> None:
    assert overall([Result("b", [SAME])], ["a"]) is Outcome.INCONCLUSIVE


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.5, "1.5 s"), (0.0123, "12.3 ms"), (4.2e-5, "42 µs"), (1.5e-7, "150 ns"), (0.0, "0 ns")],
)
def test_durations_are_told_with_a_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text
