"""How Hypothesis is run: quietly in the suite, and at length with ``pytest --hypothesis-profile=long``."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A run of `long` tries this many times as many examples; one of `short` every fourth.
FACTORS = {"long": 50.0, "short": 0.25}

# The machine may be busy, so nothing is timed;
# nothing is kept between runs; a failure prints what repeats it.
settings.register_profile(
    "sockrpc",
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("long", parent=settings.get_profile("sockrpc"))
settings.register_profile("short", parent=settings.get_profile("sockrpc"))


def is_long() -> bool:
    """True in a run of the profile `long`."""
    return settings.get_current_profile_name() == "long"


def examples(usual: int) -> settings:
    """Settings of a property that tries so many examples in the suite."""
    return settings(settings.get_profile("sockrpc"), max_examples=how_many(usual))


def how_many(usual: int) -> int:
    """The number of examples in a run of this profile."""
    return int(usual * FACTORS.get(settings.get_current_profile_name(), 1))
