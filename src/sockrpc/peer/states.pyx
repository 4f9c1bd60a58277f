"""The life of a call as tables, with a row per state and input and a column per protocol.

They drive the engine, and the pictures of docs/explanation/cancellation.md are drawn from them. An input
that has no row in the present state is a defect of this package. A debug build asserts that there is none, and
counts how often each row is taken.
"""

from libc.string cimport memset

from typing import NamedTuple

from sockrpc._debug cimport DEBUG

from sockrpc._frames import PROTOCOL_V0 as _PROTOCOL_V0
from sockrpc._frames import PROTOCOL_V1 as _PROTOCOL_V1

PROTOCOLS = (_PROTOCOL_V0, _PROTOCOL_V1)


class Row(NamedTuple):
    """The action for one input in one state.

    Attributes:
        state: The state of the call.
        input: The event: a frame that arrives, or something on this side.
        cells: The action and the next state for each of PROTOCOLS, None where the input cannot occur; a single
            one holds for all.
    """

    state: str
    input: str
    cells: tuple[tuple[str, str] | None, ...]

    def cell(self, column: int) -> tuple[str, str] | None:
        """The action and the next state in one of PROTOCOLS."""
        return self.cells[min(column, len(self.cells) - 1)]


# Calls that the other end made. Their request is not an input: it creates the call, in `waiting`.
CALLEE = (
    Row("waiting", "gate opens", (("start", "running"),)),
    Row("waiting", "reset", (("withdraw", "idle"), ("refuse", "idle"))),
    Row("waiting", "lost", (("withdraw", "idle"),)),
    Row("waiting", "timer", (None, ("refuse", "idle"))),
    Row("waiting", "stop", (("withdraw", "idle"), ("refuse", "idle"))),
    Row("waiting", "item", (None, ("hold", "waiting"))),
    Row("waiting", "end", (None, ("close input", "waiting"))),
    Row("waiting", "credit", (None, ("add credit", "waiting"))),
    Row("running", "answer", (("send response", "idle"),)),
    Row("running", "fail", (("log", "idle"), ("log", "stopping"))),
    Row("running", "reset", (("cancel", "idle"), ("cancel", "stopping"))),
    Row("running", "lost", (("cancel", "idle"),)),
    Row("running", "timer", (("cancel", "idle"), ("cancel", "stopping"))),
    Row("running", "stop", (("cancel", "idle"), ("cancel", "stopping"))),
    Row("running", "item", (None, ("hold", "running"))),
    Row("running", "end", (None, ("close input", "running"))),
    Row("running", "credit", (None, ("add credit", "running"))),
    # The first input has settled how the call ends; the others change nothing, and its end comes last.
    Row("stopping", "work ended", (None, ("send end", "idle"))),
    Row("stopping", "lost", (None, ("forget", "idle"))),
    Row("stopping", "answer", (None, ("ignore", "stopping"))),
    Row("stopping", "fail", (None, ("ignore", "stopping"))),
    Row("stopping", "reset", (None, ("ignore", "stopping"))),
    Row("stopping", "timer", (None, ("ignore", "stopping"))),
    Row("stopping", "stop", (None, ("ignore", "stopping"))),
    Row("stopping", "item", (None, ("ignore", "stopping"))),
    Row("stopping", "end", (None, ("ignore", "stopping"))),
    Row("stopping", "credit", (None, ("ignore", "stopping"))),
    # The first input has settled the call; later ones change nothing for the peer. A loss never comes later, because
    # it ends the calls that are in the table, and an idle call has left it.
    Row("idle", "answer", (("ignore", "idle"),)),
    Row("idle", "fail", (("ignore", "idle"),)),
    Row("idle", "reset", (("ignore", "idle"),)),
    Row("idle", "timer", (("ignore", "idle"),)),
    Row("idle", "stop", (("ignore", "idle"),)),
    # These crossed the end of their call.
    Row("idle", "item", (None, ("ignore", "idle"))),
    Row("idle", "end", (None, ("ignore", "idle"))),
    Row("idle", "credit", (None, ("ignore", "idle"))),
)

# Calls that this end made.
CALLER = (
    Row("idle", "call", (("queue", "unsent"),)),
    Row("unsent", "write", (("send request", "open"),)),
    # The request was never sent, so no reset is either.
    Row("unsent", "cancel", (("forget", "idle"),)),
    Row("unsent", "lost", (("raise", "idle"),)),
    # The peer takes no more calls.
    Row("unsent", "refuse", (None, ("raise", "idle"))),
    # The response answers an older call of the same id, or a request that was never made.
    Row("unsent", "response", (("ignore", "unsent"),)),
    Row("unsent", "error", (None, ("ignore", "unsent"))),
    Row("unsent", "item", (None, ("ignore", "unsent"))),
    Row("unsent", "credit", (None, ("ignore", "unsent"))),
    Row("open", "response", (("settle", "idle"),)),
    Row("open", "error", (None, ("raise", "idle"))),
    Row("open", "cancel", (("send reset", "idle"), ("send reset", "given up"))),
    Row("open", "lost", (("raise", "idle"),)),
    Row("open", "item", (None, ("hold", "open"))),
    Row("open", "credit", (None, ("add credit", "open"))),
    # The id stays taken until the end has come, which says what became of the work.
    Row("given up", "response", (None, ("note outcome", "idle"))),
    Row("given up", "error", (None, ("note outcome", "idle"))),
    Row("given up", "lost", (None, ("note outcome", "idle"))),
    Row("given up", "cancel", (None, ("ignore", "given up"))),
    Row("given up", "item", (None, ("ignore", "given up"))),
    Row("given up", "credit", (None, ("ignore", "given up"))),
    # The answer or the end came first.
    Row("idle", "cancel", (("ignore", "idle"),)),
    # The response crossed the reset, or answers a request that was never made.
    Row("idle", "response", (("ignore", "idle"),)),
    # A conforming peer sends none of these.
    Row("idle", "error", (None, ("ignore", "idle"))),
    Row("idle", "item", (None, ("ignore", "idle"))),
    Row("idle", "credit", (None, ("ignore", "idle"))),
)

cdef dict CALLEE_STATE_NUMBERS = {
    "idle": CALLEE_IDLE, "waiting": CALLEE_WAITING, "running": CALLEE_RUNNING, "stopping": CALLEE_STOPPING,
}
cdef dict CALLEE_INPUT_NUMBERS = {
    "gate opens": CALLEE_ON_GATE, "answer": CALLEE_ON_ANSWER, "fail": CALLEE_ON_FAIL, "reset": CALLEE_ON_RESET,
    "lost": CALLEE_ON_LOST, "timer": CALLEE_ON_TIMER, "stop": CALLEE_ON_STOP, "work ended": CALLEE_ON_ENDED,
    "item": CALLEE_ON_ITEM, "end": CALLEE_ON_END, "credit": CALLEE_ON_CREDIT,
}
cdef dict CALLEE_ACTION_NUMBERS = {
    "ignore": CALLEE_IGNORE, "start": CALLEE_START, "hold": CALLEE_HOLD, "close input": CALLEE_CLOSE_INPUT,
    "add credit": CALLEE_ADD_CREDIT, "send end": CALLEE_SEND_END, "forget": CALLEE_FORGET,
    "withdraw": CALLEE_WITHDRAW, "refuse": CALLEE_REFUSE, "cancel": CALLEE_CANCEL, "send response": CALLEE_RESPOND,
    "log": CALLEE_LOG,
}
cdef dict CALLER_STATE_NUMBERS = {
    "idle": CALLER_IDLE, "unsent": CALLER_UNSENT, "open": CALLER_OPEN, "given up": CALLER_GIVEN_UP,
}
cdef dict CALLER_INPUT_NUMBERS = {
    "call": CALLER_ON_CALL, "write": CALLER_ON_WRITE, "cancel": CALLER_ON_CANCEL, "response": CALLER_ON_RESPONSE,
    "lost": CALLER_ON_LOST, "error": CALLER_ON_ERROR, "item": CALLER_ON_ITEM, "credit": CALLER_ON_CREDIT,
    "refuse": CALLER_ON_REFUSE,
}
cdef dict CALLER_ACTION_NUMBERS = {
    "ignore": CALLER_IGNORE, "queue": CALLER_QUEUE, "send request": CALLER_SEND_REQUEST, "forget": CALLER_FORGET,
    "send reset": CALLER_SEND_RESET, "settle": CALLER_SETTLE, "raise": CALLER_RAISE, "note outcome": CALLER_NOTE,
    "hold": CALLER_HOLD, "add credit": CALLER_ADD_CREDIT,
}

cdef enum:
    COLUMNS = 2

cdef Life[COLUMNS] LIVES
memset(LIVES, 0, sizeof(LIVES))


cdef int fill(Cell *cells, tuple rows, int column, dict states, dict inputs, dict actions) except -1:
    cdef Cell *cell
    for row in rows:
        if row.cell(column) is None:
            continue
        action, next_state = row.cell(column)
        # The index is within the array because both numbers are values of the dicts.
        cell = &cells[<int> states[row.state] * len(inputs) + <int> inputs[row.input]]
        assert cell.action == 0, f"two rows for {row.state}, {row.input}"
        cell.action = actions[action]
        cell.next = states[next_state]
    return 0


for column in range(COLUMNS):
    fill(LIVES[column].callee, CALLEE, column, CALLEE_STATE_NUMBERS, CALLEE_INPUT_NUMBERS, CALLEE_ACTION_NUMBERS)
    fill(LIVES[column].caller, CALLER, column, CALLER_STATE_NUMBERS, CALLER_INPUT_NUMBERS, CALLER_ACTION_NUMBERS)
del column


cdef const Life *life_of(str protocol) except NULL:
    return &LIVES[<int> PROTOCOLS.index(protocol)]


# By column and place.
cdef Py_ssize_t[COLUMNS][CALLEE_CELLS] callee_taken
cdef Py_ssize_t[COLUMNS][CALLER_CELLS] caller_taken


cdef str name_of(dict numbers, int number):
    return <str> list(numbers)[list(numbers.values()).index(number)]


cdef int take_callee_row(const Life *life, int state, int input) except -1:
    cdef int place = state * CALLEE_INPUTS + input
    assert life.callee[place].action != CALLEE_NEVER, (
        f"callee: no row for {name_of(CALLEE_STATE_NUMBERS, state)}, {name_of(CALLEE_INPUT_NUMBERS, input)}")
    callee_taken[life - &LIVES[0]][place] += 1
    return 0


cdef int take_caller_row(const Life *life, int state, int input) except -1:
    cdef int place = state * CALLER_INPUTS + input
    assert life.caller[place].action != CALLER_NEVER, (
        f"caller: no row for {name_of(CALLER_STATE_NUMBERS, state)}, {name_of(CALLER_INPUT_NUMBERS, input)}")
    caller_taken[life - &LIVES[0]][place] += 1
    return 0


def rows_taken(column: int = 0) -> dict[tuple[str, str, str], int]:
    """How often each row (table, state, input) of one of PROTOCOLS was taken since the process began.

    A release build counts nothing.
    """
    cdef dict taken = {}
    cdef int index = column
    if DEBUG:
        for row in CALLEE:
            if row.cell(index) is not None:
                taken["callee", row.state, row.input] = callee_taken[index][
                    <int> CALLEE_STATE_NUMBERS[row.state] * CALLEE_INPUTS + <int> CALLEE_INPUT_NUMBERS[row.input]]
        for row in CALLER:
            if row.cell(index) is not None:
                taken["caller", row.state, row.input] = caller_taken[index][
                    <int> CALLER_STATE_NUMBERS[row.state] * CALLER_INPUTS + <int> CALLER_INPUT_NUMBERS[row.input]]
    return taken


def take_row(table: str, state: str, input: str, column: int = 0) -> None:
    """Take a row as the engine does in a debug build; tests ask for rows that do not exist.

    Raises:
        AssertionError: There is no such row in this one of PROTOCOLS, and this is a debug build.
    """
    cdef int index = column
    if table == "callee":
        take_callee_row(&LIVES[index], CALLEE_STATE_NUMBERS[state], CALLEE_INPUT_NUMBERS[input])
    else:
        take_caller_row(&LIVES[index], CALLER_STATE_NUMBERS[state], CALLER_INPUT_NUMBERS[input])
