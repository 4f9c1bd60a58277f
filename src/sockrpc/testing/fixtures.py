"""The pytest fixture `in_memory`, enabled by `pytest_plugins = ["sockrpc.testing.fixtures"]`."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from sockrpc.testing.joined import connect, serve

__all__ = ["InMemory", "in_memory"]

Result = TypeVar("Result")


class InMemory:
    """The value of the fixture `in_memory`."""

    connect = connect
    serve = serve

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine to its end on an event loop of its own, for plain test functions.

        Tests that a plugin (pytest-asyncio, anyio on asyncio) runs on its own loop use await instead.
        """
        return asyncio.run(coroutine)


@pytest.fixture
def in_memory() -> InMemory:
    """Clients joined to an app in memory; see `sockrpc.testing`."""
    return InMemory()
