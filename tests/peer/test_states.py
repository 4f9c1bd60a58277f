"""The tables of a call's life by themselves: what they allow to happen between two ends that keep to them.

That the engine takes each of their rows is in test_states_engine.py.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import pytest

from sockrpc._debug import is_debug
from sockrpc.peer.states import CALLEE, CALLER, PROTOCOLS, Row, rows_taken, take_row

SENDS = {"send request": "request", "send reset": "reset", "send response": "response"}
# What may happen at any time, as far as the state has a row for it.
CALLER_INPUTS = ("call", "write", "cancel")
CALLEE_INPUTS = ("gate opens", "answer", "fail", "timer", "stop")
# Frames under way in one direction.
ROOM = 3

# A frame and the number of the call that it is about, which the ends do not see.
Frame = tuple[str, int]
Taken = set[tuple[str, str, str]]


class State(NamedTuple):
    """Both ends of one id: the state of each, the number of its call (0: none), and what is under way."""

    caller: str = "idle"
    calling: int = 0
    callee: str = "idle"
    serving: int = 0
    up: tuple[Frame, ...] = ()
    down: tuple[Frame, ...] = ()


class Model:
    """Every interleaving of one id that is used so many times.

    Args:
        column: The protocol.
    """

    def __init__(self, column: int, uses: int) -> None:
        self.tables = {
            name: {(row.state, row.input): row.cells[column] for row in rows}
            for name, rows in (("callee", CALLEE), ("caller", CALLER))
        }
        self.uses = uses
        self.taken: Taken = set()
        self.wrong: set[str] = set()
        self.seen = {State()}
        queue = deque(self.seen)
        while queue:
            now = queue.popleft()
            self.lose(now)
            after = [
                *self.act_of_caller(now),
                *self.act_of_callee(now),
                *self.read_up(now),
                *self.read_down(now),
            ]
            if all(each == now for each in after) and now != State(calling=uses):
                self.wrong.add("stuck")
            queue.extend(new := dict.fromkeys(each for each in after if each not in self.seen))
            self.seen.update(new)

    def take(self, table: str, state: str, input: str) -> tuple[str, str] | None:
        cell = self.tables[table].get((state, input))
        if cell is None:
            return None
        self.taken.add((table, state, input))
        return cell

    def lose(self, now: State) -> None:
        for table, state in (("caller", now.caller), ("callee", now.callee)):
            # What is idle is not in the table of requests, and nobody looks for it.
            if state != "idle":
                cell = self.take(table, state, "lost")
                if cell is None or cell[1] != "idle":
                    self.wrong.add(f"{table} {state}: outlives its connection")

    def act_of_caller(self, now: State) -> list[State]:
        after = []
        for input in CALLER_INPUTS:
            if input == "call" and (now.calling == self.uses or now.caller != "idle"):
                continue
            # A call that is made is not under way yet.
            has_room = len(now.up) < ROOM or input == "call"
            cell = self.take("caller", now.caller, input) if has_room else None
            if cell is not None:
                sent = [(SENDS[cell[0]], now.calling)] if cell[0] in SENDS else []
                calling = now.calling + (input == "call")
                after.append(now._replace(caller=cell[1], calling=calling, up=(*now.up, *sent)))
        return after

    def act_of_callee(self, now: State) -> list[State]:
        after = []
        for input in CALLEE_INPUTS:
            cell = self.take("callee", now.callee, input) if len(now.down) < ROOM else None
            if cell is not None:
                sent = [(SENDS[cell[0]], now.serving)] if cell[0] in SENDS else []
                after.append(
                    now._replace(callee=cell[1], serving=served(now, cell[1]), down=(*now.down, *sent))
                )
        return after

    def read_up(self, now: State) -> list[State]:
        if not now.up:
            return []
        (frame, number), rest = now.up[0], now.up[1:]
        if frame == "request":
            # It is no input of the table: it makes the call.
            if now.callee == "idle":
                return [now._replace(callee="waiting", serving=number, up=rest)]
            self.wrong.add(
                f"callee {now.callee}: request closes the connection of a peer that keeps the rules"
            )
            return []
        cell = self.take("callee", now.callee, frame)
        if cell is None:
            self.wrong.add(f"callee {now.callee}: no row for {frame}")
            return []
        if now.callee != "idle" and number != now.serving:
            self.wrong.add(f"callee {now.callee}: {frame} of an older call acts on a newer one")
        return [now._replace(callee=cell[1], serving=served(now, cell[1]), up=rest)]

    def read_down(self, now: State) -> list[State]:
        if not now.down:
            return []
        (frame, number), rest = now.down[0], now.down[1:]
        cell = self.take("caller", now.caller, frame)
        if cell is None:
            self.wrong.add(f"caller {now.caller}: no row for {frame}")
            return []
        if now.caller != "idle" and number != now.calling:
            self.wrong.add(f"caller {now.caller}: {frame} to an older call meets a newer one")
        return [now._replace(caller=cell[1], down=rest)]


def served(now: State, state: str) -> int:
    return 0 if state == "idle" else now.serving


def every_row() -> list[tuple[str, Row]]:
    return [*(("callee", row) for row in CALLEE), *(("caller", row) for row in CALLER)]


# A reset of this protocol is silent: a response may cross it, and meets the next call if its id is used again
# at once. While that call is unsent the response is ignored. Once it is open, it is settled before its time;
# then its id is free while it is still being served.
OF_SILENT_RESETS = {
    "websocket.io-rpc-v0.1": {
        "caller unsent: response to an older call meets a newer one",
        "caller open: response to an older call meets a newer one",
        "callee waiting: request closes the connection of a peer that keeps the rules",
        "callee running: request closes the connection of a peer that keeps the rules",
    }
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_id_that_is_used_once_meets_no_other_call(protocol: str) -> None:
    model = Model(PROTOCOLS.index(protocol), uses=1)
    assert model.wrong == set()
    assert len(model.seen) == 14


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_id_that_is_used_again_at_once_suffers_from_silent_resets_alone(protocol: str) -> None:
    model = Model(PROTOCOLS.index(protocol), uses=3)
    assert model.wrong == OF_SILENT_RESETS[protocol]
    assert len(model.seen) == 203


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_row_is_on_some_path(protocol: str) -> None:
    model = Model(PROTOCOLS.index(protocol), uses=3)
    rows = {(table, row.state, row.input) for table, row in every_row()}
    assert rows - model.taken == set()
    states = {(state.caller, state.callee) for state in model.seen}
    for place, table in enumerate(("caller", "callee")):
        assert {state[place] for state in states} == {state for name, state, _ in rows if name == table}


# The order in which a call goes through its states; it never goes back but to idle, where it is over.
WAYS = {"callee": ("idle", "waiting", "running"), "caller": ("idle", "unsent", "open")}


# The tables once more, by input: what it does in which states. In all others it is ignored, or cannot come.
ACTS = {
    "gate opens": {"waiting": "start"},
    "answer": {"running": "send response"},
    "fail": {"running": "log"},
    "reset": {"waiting": "withdraw", "running": "cancel"},
    "timer": {"running": "cancel"},
    "stop": {"waiting": "withdraw", "running": "cancel"},
    "lost": {"waiting": "withdraw", "running": "cancel", "unsent": "raise", "open": "raise"},
    "call": {"idle": "queue"},
    "write": {"unsent": "send request"},
    "cancel": {"unsent": "forget", "open": "send reset"},
    "response": {"open": "settle"},
}
ONWARD = {"gate opens", "call", "write"}


@pytest.mark.parametrize("column", range(len(PROTOCOLS)), ids=PROTOCOLS)
@pytest.mark.parametrize(
    ("table", "row"), every_row(), ids=[f"{table}, {row.state}, {row.input}" for table, row in every_row()]
)
def test_a_row_ignores_and_stays_or_acts_and_goes_on(table: str, row: Row, column: int) -> None:
    way = WAYS[table]
    action, after = row.cells[column]
    assert action == ACTS[row.input].get(row.state, "ignore")
    if action == "ignore":
        assert after == row.state
    else:
        assert after == (way[way.index(row.state) + 1] if row.input in ONWARD else "idle")


def test_no_row_that_acts_is_missing() -> None:
    acting = {(row.state, row.input) for _, row in every_row() if row.cells[0][0] != "ignore"}
    assert acting == {(state, input) for input, states in ACTS.items() for state in states}


def test_each_row_stands_once_and_has_a_cell_for_each_protocol() -> None:
    places = [(table, row.state, row.input) for table, row in every_row()]
    assert len(places) == len(set(places))
    assert {len(row.cells) for _, row in every_row()} == {len(PROTOCOLS)}


# In debug builds


def missing_rows() -> list[tuple[str, str, str]]:
    return [
        (table, state, input)
        for table, way in WAYS.items()
        for state in way
        for input in dict.fromkeys(row.input for name, row in every_row() if name == table)
        if (table, state, input) not in [(name, row.state, row.input) for name, row in every_row()]
    ]


@pytest.mark.skipif(not is_debug(), reason="only debug builds assert: SOCKRPC_DEBUG=1, make asan")
@pytest.mark.parametrize("place", missing_rows(), ids=", ".join)
def test_an_input_without_a_row_is_found(place: tuple[str, str, str]) -> None:
    table, state, input = place
    with pytest.raises(AssertionError, match=f"{table}: no row for {state}, {input}"):
        take_row(*place)


@pytest.mark.skipif(not is_debug(), reason="only debug builds count: SOCKRPC_DEBUG=1, make asan")
def test_a_row_that_is_taken_is_counted() -> None:
    for table, row in every_row():
        before = rows_taken()
        take_row(table, row.state, row.input)
        after = rows_taken()
        assert {place: after[place] - before[place] for place in after if after[place] != before[place]} == {
            (table, row.state, row.input): 1
        }


def test_a_release_build_counts_no_rows() -> None:
    assert bool(rows_taken()) == is_debug()
