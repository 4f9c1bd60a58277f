"""The table of names: what was put in is found, nothing else is."""

from __future__ import annotations

import gc
import random
import weakref
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockrpc.peer.names import NameTable
from tests.kit.properties import examples

PROPERTY = examples(100)


@pytest.mark.parametrize("values", [None, {}], ids=repr)
def test_an_empty_table_finds_nothing(values: dict[bytes, object] | None) -> None:
    table = NameTable() if values is None else NameTable(values)
    assert len(table) == 0
    assert table.get(b"") is None
    assert table.get(b"name") is None


def test_names_are_found_with_their_own_values() -> None:
    values: dict[bytes, object] = {b"": object(), b"a": object(), b"b": object(), "é👀".encode(): object()}
    table = NameTable(values)
    assert len(table) == len(values)
    for name, value in values.items():
        assert table.get(name) is value


@pytest.mark.parametrize("count", [1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 1000])
def test_it_grows_with_what_it_holds(count: int) -> None:
    table = NameTable({b"method_%d" % i: i for i in range(count)})
    assert len(table) == count
    assert [table.get(b"method_%d" % i) for i in range(count)] == list(range(count))
    assert [table.get(b"method_%d" % i) for i in range(count, 2 * count)] == [None] * count


@pytest.mark.newest
def test_names_whose_hashes_are_equal_are_told_apart() -> None:
    # Among 300,000 names about ten pairs have the same hash of 32 bits, and a third share a slot.
    some = random.Random(7)
    names = list({some.randbytes(8) for _ in range(350_000)})
    names, others = names[:300_000], names[300_000:]
    table = NameTable({name: i for i, name in enumerate(names)})
    assert len(table) == 300_000
    assert all(table.get(name) == i for i, name in enumerate(names))
    assert not any(table.get(name) for name in others)


def test_names_that_differ_in_little_are_told_apart() -> None:
    base = b"a" * 255
    names = [
        base,
        base[:-1],
        base[1:] + b"b",
        b"b" + base[1:],
        base[:128] + b"\x00" + base[129:],
        b"\x00",
        b"",
    ]
    table = NameTable({name: i for i, name in enumerate(names)})
    assert [table.get(name) for name in names] == list(range(len(names)))
    for absent in (b"\x00\x00", base[:-2], base + b"a", base[:128] + b"\x01" + base[129:], b"A" * 255):
        assert table.get(absent) is None


@PROPERTY
@given(
    st.dictionaries(st.binary(max_size=12), st.integers(), max_size=100),
    st.lists(st.binary(max_size=12), max_size=50),
)
def test_it_agrees_with_a_dict(values: dict[bytes, int], others: list[bytes]) -> None:
    table = NameTable(values)
    assert len(table) == len(values)
    for name in [*values, *others]:
        assert table.get(name) == values.get(name)


@pytest.mark.parametrize("name", ["text", 1, (b"a",), None], ids=repr)
def test_a_name_is_bytes(name: Any) -> None:
    with pytest.raises(TypeError):
        NameTable({b"fine": 1, name: 2})
    with pytest.raises(TypeError):
        NameTable({b"fine": 1}).get(name)


def test_any_mapping_will_do() -> None:
    table = NameTable(MappingProxyType({b"name": 1}))
    assert table.get(b"name") == 1


def test_values_live_as_long_as_the_table() -> None:
    class Value:
        pass

    values: dict[bytes, object] = {b"%d" % i: Value() for i in range(20)}
    references = [weakref.ref(value) for value in values.values()]
    table = NameTable(values)
    del values
    gc.collect()
    assert all(reference() is table.get(b"%d" % i) is not None for i, reference in enumerate(references))
    del table
    assert [reference() for reference in references] == [None] * 20


def test_names_live_as_long_as_the_table() -> None:
    # Names that nobody else refers to, and memory that others would use if they were gone.
    numbers = random.Random(1).sample(range(10**9), 1000)
    table = NameTable({b"%d" % number: number for number in numbers})
    gc.collect()
    others = [b"%d" % i for i in range(10**9, 10**9 + 2000)]
    assert [table.get(b"%d" % number) for number in numbers] == numbers
    assert not any(table.get(other) for other in others)


def test_a_table_in_a_reference_cycle_is_collected() -> None:
    # As in an application: a handler refers to its server, whose table refers to the handler.
    class Handler:
        table: NameTable | None = None

    handler = Handler()
    handler.table = NameTable({b"name": handler})
    reference = weakref.ref(handler)
    del handler
    gc.collect()
    assert reference() is None
