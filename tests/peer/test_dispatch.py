"""The request table: entries leave it once, and by identity; against a dict as a model."""

from __future__ import annotations

import gc
import random
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from sockrpc.peer.table import Entry, live_entries
from sockrpc.testing.wire import Table

U32 = 2**32 - 1


@pytest.fixture(autouse=True)
def no_entries_are_left() -> Iterator[None]:
    before = live_entries()
    yield
    assert live_entries() == before


def new(table: Table, id: int | None = None) -> Entry:
    entry = table.new(id)
    assert entry is not None
    return entry


# Inserting and finding


@pytest.mark.parametrize("id", [0, 1, 0x7FFFFFFF, 0x80000000, U32])
def test_an_entry_is_found_under_its_id(id: int) -> None:
    table = Table()
    assert table.find(id) is None
    entry = new(table, id)
    assert entry.id == id
    assert table.find(id) is entry
    assert len(table) == 1
    assert table.entries() == [entry]
    assert table.find(id ^ 1) is None


def test_an_id_in_flight_is_refused_and_nothing_changes() -> None:
    table = Table()
    entry = new(table, 7)
    before = live_entries()
    assert table.new(7) is None
    assert table.find(7) is entry
    assert (len(table), live_entries()) == (1, before)
    assert table.take(entry)


@pytest.mark.parametrize("id", [-1, 2**32, 2**64])
def test_an_id_is_a_u32(id: int) -> None:
    table = Table()
    with pytest.raises(OverflowError):
        table.new(id)
    with pytest.raises(OverflowError):
        table.find(id)
    assert len(table) == 0


def test_an_id_can_not_be_changed() -> None:
    table = Table()
    entry = new(table, 1)
    with pytest.raises(AttributeError):
        entry.id = 2  # type: ignore[misc]
    assert table.find(1) is entry


# Taking


def test_an_entry_is_taken_once() -> None:
    table = Table()
    entry = new(table, 1)
    assert table.take(entry)
    assert not table.take(entry)
    assert (len(table), table.find(1), table.entries()) == (0, None, [])
    # It still knows what it was.
    assert entry.id == 1


def test_an_old_entry_can_not_take_a_new_one_of_the_same_id() -> None:
    table = Table()
    old = new(table, 1)
    assert table.take(old)
    young = new(table, 1)
    assert not table.take(old)
    assert table.find(1) is young
    # Nor by dying.
    del old
    assert table.find(1) is young
    assert table.take(young)


def test_an_entry_of_another_table_is_not_taken() -> None:
    one, other = Table(), Table()
    mine, theirs = new(one, 1), new(other, 1)
    assert not one.take(theirs)
    assert not other.take(mine)
    assert one.find(1) is mine
    assert other.find(1) is theirs


def test_entries_leave_in_any_order() -> None:
    # From the beginning, the middle and the end of what shares a bucket.
    order = random.Random(3)
    for _ in range(20):
        table = Table()
        entries = {id: new(table, id) for id in order.sample(range(U32), 60)}
        ids = list(entries)
        order.shuffle(ids)
        while ids:
            assert table.take(entries.pop(ids.pop()))
            assert {entry.id: entry for entry in table.entries()} == entries
            assert all(table.find(id) is entry for id, entry in entries.items())


# Living and dying


def test_the_table_holds_no_entry() -> None:
    table = Table()
    entry = new(table, 1)
    before = live_entries()
    del entry
    assert (len(table), table.find(1)) == (0, None)
    assert live_entries() == before - 1
    new(table, 1)


def test_an_entry_that_was_taken_dies_without_touching_the_table() -> None:
    table = Table()
    first, second = new(table, 1), new(table, 2)
    assert table.take(first)
    before = live_entries()
    del first
    assert live_entries() == before
    assert table.entries() == [second]


def test_an_entry_may_outlive_its_table() -> None:
    table = Table()
    entries = [new(table, id) for id in range(100)]
    before = live_entries()
    del table
    gc.collect()
    assert live_entries() == before
    for _ in range(100):
        entries.pop()
        before -= 1
        assert live_entries() == before


def test_an_entry_in_a_reference_cycle_leaves_the_table_when_it_is_collected() -> None:
    class Child(Entry):
        me: Any

    # Not through `Table.new`, so it is in no table; with a neighbour that is, to be collected together.
    table = Table()
    child = Child()
    child.me = [child, new(table, 1), new(table, 2)]
    reference = weakref.ref(child)
    del child
    assert len(table) == 2
    gc.collect()
    assert reference() is None
    assert (len(table), table.entries()) == (0, [])
    new(table, 1)


# Allocating


def test_ids_count_up_from_one() -> None:
    table = Table()
    entries = [new(table) for _ in range(100)]
    assert [entry.id for entry in entries] == list(range(1, 101))


def test_an_id_is_not_used_again_soon() -> None:
    table = Table()
    for expected in range(1, 50):
        assert new(table).id == expected
        assert len(table) == 0


def test_ids_wrap_from_the_largest_to_zero() -> None:
    table = Table(last_id=U32 - 2)
    entries = [new(table) for _ in range(4)]
    assert [entry.id for entry in entries] == [U32 - 1, U32, 0, 1]


def test_ids_in_flight_are_skipped() -> None:
    table = Table(last_id=U32 - 1)
    held = [new(table, id) for id in (U32, 0, 1, 3, 4, 6)]
    assert [new(table).id for _ in range(3)] == [2, 5, 7]
    assert len(table) == len(held)


# Many


def test_a_hundred_thousand_entries() -> None:
    table = Table()
    before = live_entries()
    entries = [new(table) for _ in range(100_000)]
    assert (len(table), live_entries()) == (100_000, before + 100_000)
    for id in range(1, 100_001, 997):
        assert table.find(id) is entries[id - 1]
    assert table.find(0) is None
    assert table.find(100_001) is None
    assert sorted(entry.id for entry in table.entries()) == list(range(1, 100_001))
    for entry in entries[::2]:
        assert table.take(entry)
    assert [entry.id for entry in sorted(table.entries(), key=lambda entry: entry.id)][:3] == [2, 4, 6]
    del entries, entry
    assert (len(table), live_entries()) == (0, before)
    assert new(table).id == 100_001


def processor_seconds(work: Callable[[], None]) -> float:
    """The least of three runs, without what the collector does for the rest of the process."""
    seconds = []
    for _ in range(3):
        gc.disable()
        begun = time.process_time()
        work()
        seconds.append(time.process_time() - begun)
        gc.enable()
    return min(seconds)


@pytest.mark.parametrize("stride", [1, 2**8, 2**12, 2**16, 3 * 2**10])
def test_ids_chosen_to_share_a_bucket_do_not_slow_the_table_down(stride: int) -> None:
    ids = [i * stride for i in range(60_000)]

    def with_table() -> None:
        table = Table()
        entries = [new(table, id) for id in ids]
        assert all(table.find(id) is entry for id, entry in zip(ids, entries, strict=True))

    def with_dict() -> None:
        table = {id: object() for id in ids}
        assert all(table.get(id) is entry for id, entry in table.items())

    # A few times as much is right; chains of 60,000 would cost hundreds of times as much.
    assert processor_seconds(with_table) < 100 * processor_seconds(with_dict)


# Against a model


class Model(RuleBasedStateMachine):
    """A table, and the dict that it must agree with."""

    entries = Bundle("entries")
    ids = st.one_of(st.integers(0, 12), st.integers(U32 - 3, U32), st.integers(0, U32))

    @initialize(last_id=st.sampled_from([0, 1, U32 - 3, U32]))
    def begin(self, last_id: int) -> None:
        self.table = Table(last_id=last_id)
        self.last_id = last_id
        self.model: dict[int, Entry] = {}
        self.before = live_entries()

    @rule(target=entries, id=ids)
    def insert(self, id: int) -> Any:
        entry = self.table.new(id)
        assert (entry is None) == (id in self.model)
        if entry is None:
            return multiple()
        assert entry.id == id
        self.model[id] = entry
        return Held(entry)

    @rule(target=entries)
    def allocate(self) -> Any:
        entry = new(self.table)
        expected = (self.last_id + 1) & U32
        while expected in self.model:
            expected = (expected + 1) & U32
        assert entry.id == expected
        self.last_id = expected
        self.model[expected] = entry
        return Held(entry)

    @rule(held=entries)
    def take(self, held: Held) -> None:
        # Again and again: an entry that was taken stays in the bundle, and its id may be in use anew.
        entry = held.entry
        in_table = self.model.get(entry.id) is entry
        assert self.table.take(entry) == in_table
        if in_table:
            del self.model[entry.id]

    @rule(held=consumes(entries))
    def drop(self, held: Held) -> None:
        entry = held.entry
        if self.model.get(entry.id) is entry:
            del self.model[entry.id]
        held.drop()

    @rule(id=ids)
    def find(self, id: int) -> None:
        assert self.table.find(id) is self.model.get(id)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "table"):
            return
        assert len(self.table) == len(self.model)
        assert live_entries() - self.before == len(self.model)
        assert {entry.id: entry for entry in self.table.entries()} == self.model
        assert all(self.table.find(id) is entry for id, entry in self.model.items())

    def teardown(self) -> None:
        if hasattr(self, "table"):
            # Hypothesis may hold the machine, and so the entries, for longer.
            for entry in self.model.values():
                assert self.table.take(entry)


class Held:
    """The test's only reference to an entry, beside the model's."""

    def __init__(self, entry: Entry) -> None:
        self._entry: Entry | None = entry

    @property
    def entry(self) -> Entry:
        assert self._entry is not None
        return self._entry

    def drop(self) -> None:
        self._entry = None


TestModel = Model.TestCase
TestModel.pytestmark = pytest.mark.newest
# The machine may be busy, so nothing is timed; nothing is kept between runs.
TestModel.settings = settings(
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
    max_examples=100,
    stateful_step_count=50,
)
