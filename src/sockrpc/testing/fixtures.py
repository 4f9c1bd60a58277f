"""The pytest fixture `in_memory`; `pytest_plugins = ["sockrpc.testing.fixtures"]` in conftest.py has it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from sockrpc.testing.joined import connect, serve

__all__ = ["InMemory", "in_memory"]

Result = TypeVar("Result")


class InMemory:
    """What a test with the fixture `in_memory` gets."""

    connect = connect
    serve = serve

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine to its end on an event loop of its own, as a plain test function needs it.

        A test that a plugin (pytest-asyncio, anyio on asyncio) runs on a loop of the plugin's awaits instead.
        """
        return asyncio.run(coroutine)


@pytest.fixture
def in_memory() -> InMemory:
    """Clients joined to an app in memory; see `sockrpc.testing`."""
    return InMemory()
