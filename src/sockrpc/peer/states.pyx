"""The life of a call as tables, with a row per state and input and a column per protocol.

They drive the engine, and the pictures of docs/explanation/cancellation.md are drawn from them. An input
that has no row in the present state is a defect of this package. A debug build asserts that there is none, and
counts how often each row is taken.
"""

from libc.string cimport memset

from typing import NamedTuple

from sockrpc._debug cimport DEBUG

PROTOCOLS = ("websocket.io-rpc-v0.1",)


class Row(NamedTuple):
    """The action for one input in one state.

    Attributes:
        state: The state of the call.
        input: The event: a frame that arrives, or something on this side.
        cells: The action and the next state for each of PROTOCOLS.
    """

    state: str
    input: str
    cells: tuple[tuple[str, str], ...]


# Calls that the other end made. Their request is not an input: it creates the call, in `waiting`.
CALLEE = (
    Row("waiting", "gate opens", (("start", "running"),)),
    Row("waiting", "reset", (("withdraw", "idle"),)),
    Row("waiting", "lost", (("withdraw", "idle"),)),
    Row("waiting", "stop", (("withdraw", "idle"),)),
    Row("running", "answer", (("send response", "idle"),)),
    Row("running", "fail", (("log", "idle"),)),
    Row("running", "reset", (("cancel", "idle"),)),
    Row("running", "lost", (("cancel", "idle"),)),
    Row("running", "timer", (("cancel", "idle"),)),
    Row("running", "stop", (("cancel", "idle"),)),
    # The first input has settled the call; later ones change nothing for the peer. A loss never comes later, because
    # it ends the calls that are in the table, and an idle call has left it.
    Row("idle", "answer", (("ignore", "idle"),)),
    Row("idle", "fail", (("ignore", "idle"),)),
    Row("idle", "reset", (("ignore", "idle"),)),
    Row("idle", "timer", (("ignore", "idle"),)),
    Row("idle", "stop", (("ignore", "idle"),)),
)

# Calls that this end made.
CALLER = (
    Row("idle", "call", (("queue", "unsent"),)),
    Row("unsent", "write", (("send request", "open"),)),
    # The request was never sent, so no reset is either.
    Row("unsent", "cancel", (("forget", "idle"),)),
    Row("unsent", "lost", (("raise", "idle"),)),
    # The response answers an older call of the same id, or a request that was never made.
    Row("unsent", "response", (("ignore", "unsent"),)),
    Row("open", "response", (("settle", "idle"),)),
    Row("open", "cancel", (("send reset", "idle"),)),
    Row("open", "lost", (("raise", "idle"),)),
    # The answer or the end came first.
    Row("idle", "cancel", (("ignore", "idle"),)),
    # The response crossed the reset, or answers a request that was never made.
    Row("idle", "response", (("ignore", "idle"),)),
)

cdef dict CALLEE_STATE_NUMBERS = {"idle": CALLEE_IDLE, "waiting": CALLEE_WAITING, "running": CALLEE_RUNNING}
cdef dict CALLEE_INPUT_NUMBERS = {
    "gate opens": CALLEE_ON_GATE, "answer": CALLEE_ON_ANSWER, "fail": CALLEE_ON_FAIL, "reset": CALLEE_ON_RESET,
    "lost": CALLEE_ON_LOST, "timer": CALLEE_ON_TIMER, "stop": CALLEE_ON_STOP,
}
cdef dict CALLEE_ACTION_NUMBERS = {
    "ignore": CALLEE_IGNORE, "start": CALLEE_START, "withdraw": CALLEE_WITHDRAW, "cancel": CALLEE_CANCEL,
    "send response": CALLEE_RESPOND, "log": CALLEE_LOG,
}
cdef dict CALLER_STATE_NUMBERS = {"idle": CALLER_IDLE, "unsent": CALLER_UNSENT, "open": CALLER_OPEN}
cdef dict CALLER_INPUT_NUMBERS = {
    "call": CALLER_ON_CALL, "write": CALLER_ON_WRITE, "cancel": CALLER_ON_CANCEL, "response": CALLER_ON_RESPONSE,
    "lost": CALLER_ON_LOST,
}
cdef dict CALLER_ACTION_NUMBERS = {
    "ignore": CALLER_IGNORE, "queue": CALLER_QUEUE, "send request": CALLER_SEND_REQUEST, "forget": CALLER_FORGET,
    "send reset": CALLER_SEND_RESET, "settle": CALLER_SETTLE, "raise": CALLER_RAISE,
}

cdef enum:
    COLUMNS = 1

cdef Life[COLUMNS] LIVES
memset(LIVES, 0, sizeof(LIVES))


cdef int fill(Cell *cells, tuple rows, int column, dict states, dict inputs, dict actions) except -1:
    cdef Cell *cell
    for row in rows:
        action, next_state = row.cells[column]
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


cdef Py_ssize_t[CALLEE_CELLS] callee_taken
cdef Py_ssize_t[CALLER_CELLS] caller_taken


cdef str name_of(dict numbers, int number):
    return <str> list(numbers)[list(numbers.values()).index(number)]


cdef int take_callee_row(const Life *life, int state, int input) except -1:
    cdef int place = state * CALLEE_INPUTS + input
    assert life.callee[place].action != CALLEE_NEVER, (
        f"callee: no row for {name_of(CALLEE_STATE_NUMBERS, state)}, {name_of(CALLEE_INPUT_NUMBERS, input)}")
    callee_taken[place] += 1
    return 0


cdef int take_caller_row(const Life *life, int state, int input) except -1:
    cdef int place = state * CALLER_INPUTS + input
    assert life.caller[place].action != CALLER_NEVER, (
        f"caller: no row for {name_of(CALLER_STATE_NUMBERS, state)}, {name_of(CALLER_INPUT_NUMBERS, input)}")
    caller_taken[place] += 1
    return 0


def rows_taken() -> dict[tuple[str, str, str], int]:
    """How often each row (table, state, input) was taken since the process began; a release build counts nothing."""
    cdef dict taken = {}
    if DEBUG:
        for row in CALLEE:
            taken["callee", row.state, row.input] = callee_taken[
                <int> CALLEE_STATE_NUMBERS[row.state] * CALLEE_INPUTS + <int> CALLEE_INPUT_NUMBERS[row.input]]
        for row in CALLER:
            taken["caller", row.state, row.input] = caller_taken[
                <int> CALLER_STATE_NUMBERS[row.state] * CALLER_INPUTS + <int> CALLER_INPUT_NUMBERS[row.input]]
    return taken


def take_row(table: str, state: str, input: str) -> None:
    """Take a row as the engine does in a debug build; tests ask for rows that do not exist.

    Raises:
        AssertionError: There is no such row, and this is a debug build.
    """
    if table == "callee":
        take_callee_row(&LIVES[0], CALLEE_STATE_NUMBERS[state], CALLEE_INPUT_NUMBERS[input])
    else:
        take_caller_row(&LIVES[0], CALLER_STATE_NUMBERS[state], CALLER_INPUT_NUMBERS[input])
