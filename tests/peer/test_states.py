"""The tables of a call's life by themselves: what they allow to happen between two ends that keep to them.

That the engine takes each of their rows is in test_states_engine.py.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import pytest

from sockrpc._debug import is_debug
from sockrpc.peer.states import CALLEE, CALLER, PROTOCOLS, Row, rows_taken, take_row

SENDS = {
    "send request": "request",
    "send reset": "reset",
    "send response": "response",
    "refuse": "error",
    "send end": "error",
}
# What may happen at any time, as far as the state has a row for it.
CALLER_INPUTS = ("call", "write", "cancel", "refuse")
CALLEE_INPUTS = ("gate opens", "answer", "fail", "timer", "stop", "work ended")
# The frames of streams, which change no state and are sent by an end that is in the middle of a call.
CALLER_STREAMS = {"open": ("item", "end", "credit")}
CALLEE_STREAMS = {"running": ("item", "credit")}
V0, V1 = range(len(PROTOCOLS))
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
            name: {(row.state, row.input): row.cell(column) for row in rows}
            for name, rows in (("callee", CALLEE), ("caller", CALLER))
        }
        self.streams = (CALLER_STREAMS, CALLEE_STREAMS) if column == V1 else ({}, {})
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
                self.wrong.add(f"stuck: {now}")
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
        if len(now.up) < ROOM:
            after += [
                now._replace(up=(*now.up, (frame, now.calling)))
                for frame in self.streams[0].get(now.caller, ())
            ]
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
        if len(now.down) < ROOM:
            after += [
                now._replace(down=(*now.down, (frame, now.serving)))
                for frame in self.streams[1].get(now.callee, ())
            ]
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
        # Reading does not wait for room.
        sent = [(SENDS[cell[0]], now.serving)] if cell[0] in SENDS else []
        return [now._replace(callee=cell[1], serving=served(now, cell[1]), up=rest, down=(*now.down, *sent))]

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


def rows_of(column: int) -> list[tuple[str, Row]]:
    return [(table, row) for table, row in every_row() if row.cell(column) is not None]


# A reset of v0.1 is silent: a response may cross it, and meets the next call if its id is used again
# at once. While that call is unsent the response is ignored. Once it is open, it is settled before its time;
# then its id is free while it is still being served. In v1 an id is taken until the end has come.
OF_SILENT_RESETS = {
    V0: {
        "caller unsent: response to an older call meets a newer one",
        "caller open: response to an older call meets a newer one",
        "callee waiting: request closes the connection of a peer that keeps the rules",
        "callee running: request closes the connection of a peer that keeps the rules",
    },
    V1: set[str](),
}
# What only a peer that breaks the rules can bring about: frames of a call that is over, or is not open yet.
OF_STRANGE_PEERS = {
    V0: Taken(),
    V1: {
        ("caller", state, frame)
        for state in ("idle", "unsent")
        for frame in ("response", "error", "item", "credit")
    },
}

each_protocol = pytest.mark.parametrize("column", [V0, V1], ids=PROTOCOLS)


@each_protocol
def test_an_id_that_is_used_once_meets_no_other_call(column: int) -> None:
    model = Model(column, uses=1)
    assert model.wrong == set()
    assert len(model.seen) == {V0: 14, V1: 2062}[column]


@each_protocol
def test_an_id_that_is_used_again_at_once_suffers_from_silent_resets_alone(column: int) -> None:
    model = Model(column, uses=3)
    assert model.wrong == OF_SILENT_RESETS[column]
    assert len(model.seen) == {V0: 203, V1: 6448}[column]


@each_protocol
def test_every_row_is_on_some_path(column: int) -> None:
    model = Model(column, uses=3)
    rows = {(table, row.state, row.input) for table, row in rows_of(column)}
    assert rows - model.taken == OF_STRANGE_PEERS[column]
    states = {(state.caller, state.callee) for state in model.seen}
    for place, table in enumerate(("caller", "callee")):
        assert {state[place] for state in states} == {state for name, state, _ in rows if name == table}


# The order in which a call goes through its states; it never goes back but to idle, where it is over.
WAYS = {
    V0: {"callee": ("idle", "waiting", "running"), "caller": ("idle", "unsent", "open")},
    V1: {
        "callee": ("idle", "waiting", "running", "stopping"),
        "caller": ("idle", "unsent", "open", "given up"),
    },
}

# The tables once more, by input: what it does in which states. In all others it is ignored, or cannot come.
OF_BOTH = {
    "gate opens": {"waiting": "start"},
    "answer": {"running": "send response"},
    "fail": {"running": "log"},
    "call": {"idle": "queue"},
    "write": {"unsent": "send request"},
    "cancel": {"unsent": "forget", "open": "send reset"},
}
LOST = {"waiting": "withdraw", "running": "cancel", "unsent": "raise", "open": "raise"}
ENDED_EARLY = {"waiting": "refuse", "running": "cancel"}
ACTS: dict[int, dict[str, dict[str, str]]] = {
    V0: OF_BOTH
    | {
        "reset": {"waiting": "withdraw", "running": "cancel"},
        "timer": {"running": "cancel"},
        "stop": {"waiting": "withdraw", "running": "cancel"},
        "lost": LOST,
        "response": {"open": "settle"},
    },
    V1: OF_BOTH
    | {
        "reset": ENDED_EARLY,
        "timer": ENDED_EARLY,
        "stop": ENDED_EARLY,
        "work ended": {"stopping": "send end"},
        "lost": LOST | {"stopping": "forget", "given up": "note outcome"},
        "response": {"open": "settle", "given up": "note outcome"},
        "error": {"open": "raise", "given up": "note outcome"},
        "refuse": {"unsent": "raise"},
        "item": dict.fromkeys(("waiting", "running", "open"), "hold"),
        "end": dict.fromkeys(("waiting", "running"), "close input"),
        "credit": dict.fromkeys(("waiting", "running", "open"), "add credit"),
    },
}
# Actions after which the call goes on as it is, and those after which it is in the next state of its way.
# In v1 what is aborted or given up is not over: its end has to be sent, or to come.
STAYS = {"ignore", "hold", "close input", "add credit"}
ONWARD = {V0: {"start", "queue", "send request"}}
ONWARD[V1] = ONWARD[V0] | {"log", "cancel", "send reset"}


@pytest.mark.parametrize(
    ("column", "table", "row"),
    [
        pytest.param(column, table, row, id=f"{protocol}, {table}, {row.state}, {row.input}")
        for column, protocol in enumerate(PROTOCOLS)
        for table, row in rows_of(column)
    ],
)
def test_a_row_stays_or_goes_on_or_ends(column: int, table: str, row: Row) -> None:
    cell = row.cell(column)
    assert cell is not None
    action, after = cell
    assert action == ACTS[column][row.input].get(row.state, "ignore")
    way = WAYS[column][table]
    if action in STAYS:
        assert after == row.state
    elif action in ONWARD[column] and row.input != "lost":
        assert after == way[way.index(row.state) + 1]
    else:
        assert after == "idle"


@each_protocol
def test_no_row_that_acts_is_missing(column: int) -> None:
    acting = {
        (row.state, row.input) for _, row in rows_of(column) if (row.cell(column) or "ignore")[0] != "ignore"
    }
    assert acting == {(state, input) for input, states in ACTS[column].items() for state in states}


def test_each_row_stands_once_and_its_cells_differ() -> None:
    places = [(table, row.state, row.input) for table, row in every_row()]
    assert len(places) == len(set(places))
    for _, row in every_row():
        assert row.cells[0] if len(row.cells) == 1 else len(set(row.cells)) == len(PROTOCOLS)


# In debug builds


def missing_rows() -> list[tuple[int, str, str, str]]:
    return [
        (column, table, state, input)
        for column in (V0, V1)
        for table, way in WAYS[V1].items()
        for state in way
        for input in dict.fromkeys(row.input for name, row in every_row() if name == table)
        if (table, state, input) not in [(name, row.state, row.input) for name, row in rows_of(column)]
    ]


@pytest.mark.skipif(not is_debug(), reason="only debug builds assert: SOCKRPC_DEBUG=1, make asan")
@pytest.mark.parametrize(("column", "table", "state", "input"), missing_rows())
def test_an_input_without_a_row_is_found(column: int, table: str, state: str, input: str) -> None:
    with pytest.raises(AssertionError, match=f"{table}: no row for {state}, {input}"):
        take_row(table, state, input, column)


@pytest.mark.skipif(not is_debug(), reason="only debug builds count: SOCKRPC_DEBUG=1, make asan")
@each_protocol
def test_a_row_that_is_taken_is_counted(column: int) -> None:
    for table, row in rows_of(column):
        before = rows_taken(column)
        take_row(table, row.state, row.input, column)
        after = rows_taken(column)
        assert {place: after[place] - before[place] for place in after if after[place] != before[place]} == {
            (table, row.state, row.input): 1
        }


def test_a_release_build_counts_no_rows() -> None:
    assert bool(rows_taken()) == is_debug()
