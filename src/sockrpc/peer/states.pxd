# The life of a call as tables: for each state and input, an action and the next state.

from libc.stdint cimport uint8_t

# The states of a call that the other end made and this end serves.
cdef enum CalleeState:
    CALLEE_IDLE = 0        # over for the peer, though in v0.1 its work may still unwind
    CALLEE_WAITING = 1     # it has not started, or no iterator has taken it
    CALLEE_RUNNING = 2
    CALLEE_STOPPING = 3    # v1: it was aborted or has failed, and its end is sent when all its work has ended
    CALLEE_STATES = 4

cdef enum CalleeInput:
    CALLEE_ON_GATE = 0     # the limits let it start
    CALLEE_ON_ANSWER = 1
    CALLEE_ON_FAIL = 2     # the handler raised, or ended without an answer
    # These have the order of the endings that they lead to (tally.pxd).
    CALLEE_ON_RESET = 3
    CALLEE_ON_LOST = 4
    CALLEE_ON_TIMER = 5
    CALLEE_ON_STOP = 6
    CALLEE_ON_ENDED = 7    # nothing of its work is left
    CALLEE_ON_ITEM = 8
    CALLEE_ON_END = 9
    CALLEE_ON_CREDIT = 10
    CALLEE_INPUTS = 11
    CALLEE_CELLS = 44      # CALLEE_STATES * CALLEE_INPUTS

cdef enum CalleeAction:
    CALLEE_NEVER = 0       # there is no row, so this is a defect of ours
    CALLEE_IGNORE = 1
    CALLEE_START = 2
    CALLEE_HOLD = 3        # keep the item for the handler
    CALLEE_CLOSE_INPUT = 4
    CALLEE_ADD_CREDIT = 5
    CALLEE_SEND_END = 6
    CALLEE_FORGET = 7
    # From here on the action settles how the call has ended.
    CALLEE_WITHDRAW = 8
    CALLEE_REFUSE = 9      # withdraw it, and send its end
    CALLEE_CANCEL = 10
    CALLEE_RESPOND = 11
    CALLEE_LOG = 12

# The states of a call that this end made.
cdef enum CallerState:
    CALLER_IDLE = 0
    CALLER_UNSENT = 1      # its request is not written yet
    CALLER_OPEN = 2
    CALLER_GIVEN_UP = 3    # v1: its reset is sent, its end has not come
    CALLER_STATES = 4

cdef enum CallerInput:
    CALLER_ON_CALL = 0
    CALLER_ON_WRITE = 1
    CALLER_ON_CANCEL = 2   # the waiter gave up
    CALLER_ON_RESPONSE = 3
    CALLER_ON_LOST = 4
    CALLER_ON_ERROR = 5
    CALLER_ON_ITEM = 6
    CALLER_ON_CREDIT = 7
    CALLER_ON_REFUSE = 8   # it may not be written any more
    CALLER_INPUTS = 9
    CALLER_CELLS = 36      # CALLER_STATES * CALLER_INPUTS

cdef enum CallerAction:
    CALLER_NEVER = 0
    CALLER_IGNORE = 1
    CALLER_QUEUE = 2
    CALLER_SEND_REQUEST = 3
    CALLER_FORGET = 4
    CALLER_SEND_RESET = 5
    CALLER_SETTLE = 6
    CALLER_RAISE = 7
    CALLER_NOTE = 8        # note the outcome
    CALLER_HOLD = 9        # keep the item for the reader
    CALLER_ADD_CREDIT = 10

cdef struct Cell:
    uint8_t action
    uint8_t next           # the state

# The rows of both tables in one protocol; a cell stands at [state * INPUTS + input].
cdef struct Life:
    Cell[CALLEE_CELLS] callee
    Cell[CALLER_CELLS] caller

cdef const Life *life_of(str protocol) except NULL

# For debug builds: assert that there is a row, and count that it was taken.
cdef int take_callee_row(const Life *life, int state, int input) except -1
cdef int take_caller_row(const Life *life, int state, int input) except -1
