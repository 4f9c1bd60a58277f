"""The pytest fixture `bench`: `pytest_plugins = ["sockrpc.bench.fixtures"]` in conftest.py switches it on."""

from __future__ import annotations

import pytest

from sockrpc.bench.loopback import Bench

__all__ = ["bench"]


@pytest.fixture
def bench() -> Bench:
    """A server on the loopback network, clients of it, an injector of resets; see `sockrpc.bench.Bench`."""
    return Bench()
