"""The pytest fixture `bench`; `pytest_plugins = ["sockrpc.bench.fixtures"]` in conftest.py enables it."""

from __future__ import annotations

import pytest

from sockrpc.bench.loopback import Bench

__all__ = ["bench"]


@pytest.fixture
def bench() -> Bench:
    """A server on the loopback network, its clients, and an injector of resets; see `sockrpc.bench.Bench`."""
    return Bench()
