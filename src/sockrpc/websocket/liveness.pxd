# Keepalive, deadlines and stalls: a record of one connection, and functions that judge it. They know no transport and
# no clock: the connection states the facts and the time, and acts on what is decided here.

from libc.stdint cimport int64_t, uint64_t

from sockrpc._settings cimport LimitValues

# The memory from one sweep to the next. All times are loop time; 0 means that there is none.
cdef struct Liveness:
    bint heard                       # a byte was received since the last sweep
    bint overdue                     # the last sweep found a verdict; the next one executes it
    bint awaiting_pong
    double deadline                  # the connection is dropped then
    double last_heard
    double pinged_at                 # when the ping was sent, or when the output before it last moved
    double output_stalled_since
    double reading_stalled_since
    int64_t ping_position            # position of its end in `Facts.written`; 0 if no output stood before it
    int64_t left_mark                # at the last sweep: the value of `Facts.left`; -1: unknown
    int64_t moved_mark               # at the last sweep: the value of `Facts.moved`
    uint64_t started_mark            # at the last sweep: the value of `Facts.left_queue`

# The facts that a connection states about itself at a sweep.
cdef struct Facts:
    bint has_ended
    bint is_brief                    # refused before the request came, so no progress extends the deadline
    bint has_grace                   # it is closing, and has more time whether or not output moves
    bint write_paused
    bint reading_held
    bint parsing_stopped             # by a full waiting queue
    int64_t written                  # bytes given to the transport so far
    # These two are set if `needs_left` asks for them.
    int64_t left                     # how many of these bytes have left this host
    int64_t moved                    # a number that changes when bytes leave this host
    uint64_t left_queue              # procedures that have left the waiting queue

cdef enum Verdict:
    VERDICT_NONE = 0
    VERDICT_NOT_OPENED = 1
    VERDICT_NOT_CLOSED = 2
    VERDICT_DOES_NOT_READ = 3
    VERDICT_QUEUE_STANDS = 4
    VERDICT_NO_PONG = 5

cdef str verdict_reason(Verdict verdict)   # the text that people see

# A sweep calls these in this order.
cdef void hear(Liveness *liveness, double now) noexcept nogil
# True if `watch` needs to know what has left; system calls find it out.
cdef bint needs_left(const Liveness *liveness, const Facts *facts) noexcept nogil
cdef void watch(Liveness *liveness, const Facts *facts, const LimitValues *limits, double now) noexcept nogil
cdef Verdict judge(Liveness *liveness, const Facts *facts, const LimitValues *limits, double now) noexcept nogil
cdef bint ping_is_due(
    const Liveness *liveness, const Facts *facts, const LimitValues *limits, double now) noexcept nogil
# A ping was sent: `left` as in Facts, before it; `position` as in Liveness.
cdef void pinged(Liveness *liveness, int64_t left, int64_t position, double now) noexcept nogil

# Reading goes on after a pause, during which no byte could be heard.
cdef void resume(Liveness *liveness, double now) noexcept nogil

# The connection has ended; it must be closed by `deadline`.
cdef void close_by(Liveness *liveness, double deadline) noexcept nogil
