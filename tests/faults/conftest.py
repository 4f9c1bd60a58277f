"""Between two namespaces the tests run on one loop: seconds each, and what they try is the line."""

from __future__ import annotations

import pytest

from tests.kit.loops import LOOPS


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    others = [
        item
        for item in items
        if item.path.name == "test_netns.py"
        and isinstance(item, pytest.Function)
        and hasattr(item, "callspec")
        and item.callspec.params.get("loop_kind", LOOPS[-1]) != LOOPS[-1]
    ]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]
