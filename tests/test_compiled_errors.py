"""What the compiled classes refuse, and what they say of themselves."""

from __future__ import annotations

import pytest

from sockrpc._calls import Call
from sockrpc._dispatch import Table
from sockrpc._names import NameTable
from sockrpc._notifications import Notification
from sockrpc._websocket import Parser


@pytest.mark.parametrize("kind", [Call, Notification])
def test_a_procedure_is_made_by_a_server_only(kind: type) -> None:
    with pytest.raises(TypeError, match="made by the server that received it"):
        kind()


def test_a_name_that_stands_twice_is_refused() -> None:
    class Twice(dict[bytes, int]):
        def items(self) -> list[tuple[bytes, int]]:  # type: ignore[override]
            return [(b"name", 1), (b"name", 2)]

    with pytest.raises(ValueError, match="b'name' stands twice"):
        NameTable(Twice())


def test_a_parser_has_one_of_two_roles() -> None:
    with pytest.raises(ValueError, match="role is 'server' or 'client', not 'peer'"):
        Parser("peer", 1000)


def test_a_table_tells_how_many_are_in_flight() -> None:
    table = Table()
    entries = [table.new(), table.new()]
    assert len(table) == len(entries)
    assert table.take(entries.pop())
    assert len(table) == 1
    del entries
    assert len(table) == 0
