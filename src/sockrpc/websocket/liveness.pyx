"""Keepalive, deadlines and stalls of a connection, judged by pure functions over a record of it.

The sweep of its loop calls them with the loop's time; tests call them with any number for a clock.
"""

from sockrpc._settings cimport Settings

cdef tuple VERDICTS = (
    "",
    "no opening handshake in time",
    "not closed in time",
    "stalled: the peer does not read",
    "stalled: the waiting queue does not move",
    "keepalive: no answer to a ping in time",
)


cdef str verdict_reason(Verdict verdict):
    return VERDICTS[<int> verdict]


cdef void hear(Liveness *liveness, double now) noexcept nogil:
    if liveness.heard:
        liveness.heard = False
        liveness.last_heard = now
        liveness.awaiting_pong = False


cdef bint needs_left(const Liveness *liveness, const Facts *facts) noexcept nogil:
    return facts.has_ended or facts.write_paused or (liveness.awaiting_pong and liveness.ping_position != 0)


cdef void watch(Liveness *liveness, const Facts *facts, const LimitValues *limits, double now) noexcept nogil:
    if facts.has_ended:
        watch_closing(liveness, facts, limits, now)
    else:
        watch_output(liveness, facts, now)
        watch_queue(liveness, facts, now)


cdef void watch_closing(
    Liveness *liveness, const Facts *facts, const LimitValues *limits, double now
) noexcept nogil:
    # A peer that reads on may take its time: `close_timeout` is the longest time without progress, and the last bytes
    # that leave are progress too. A peer that is refused before its request came gets no more time, because no limit
    # counts it.
    cdef bint had_output = 0 <= liveness.left_mark < facts.written
    cdef bint has_moved = had_output and facts.moved != liveness.moved_mark
    if facts.has_grace or (has_moved and not facts.is_brief):
        liveness.deadline = max(liveness.deadline, now + limits.close_timeout)
    liveness.left_mark = facts.left
    liveness.moved_mark = facts.moved


cdef void watch_output(Liveness *liveness, const Facts *facts, double now) noexcept nogil:
    if not facts.write_paused:
        liveness.output_stalled_since = 0.0
    if not needs_left(liveness, facts):
        return
    if facts.write_paused and (facts.moved != liveness.moved_mark or liveness.output_stalled_since == 0.0):
        liveness.output_stalled_since = now
    if liveness.awaiting_pong and facts.left != liveness.left_mark and liveness.left_mark < liveness.ping_position:
        # The line is slow, not dead: output from before the ping is still on its way.
        liveness.pinged_at = now
    liveness.left_mark = facts.left
    liveness.moved_mark = facts.moved


cdef void watch_queue(Liveness *liveness, const Facts *facts, double now) noexcept nogil:
    if not facts.parsing_stopped:
        liveness.reading_stalled_since = 0.0
    elif facts.left_queue != liveness.started_mark or liveness.reading_stalled_since == 0.0:
        liveness.started_mark = facts.left_queue
        liveness.reading_stalled_since = now


cdef Verdict judge(Liveness *liveness, const Facts *facts, const LimitValues *limits, double now) noexcept nogil:
    cdef bint was_overdue = liveness.overdue
    liveness.overdue = is_overdue(liveness, facts, limits, now)
    # Only the second sweep that finds a verdict carries it out, so that a blocked loop reads before it judges.
    if not (was_overdue and liveness.overdue):
        return VERDICT_NONE
    if liveness.deadline != 0.0:
        return VERDICT_NOT_CLOSED if facts.has_ended else VERDICT_NOT_OPENED
    # If output is blocked too, that is why the queue does not move.
    if liveness.output_stalled_since != 0.0:
        return VERDICT_DOES_NOT_READ
    if liveness.reading_stalled_since != 0.0:
        return VERDICT_QUEUE_STANDS
    return VERDICT_NO_PONG


cdef bint is_overdue(
    const Liveness *liveness, const Facts *facts, const LimitValues *limits, double now
) noexcept nogil:
    if liveness.deadline != 0.0:
        return now >= liveness.deadline
    if has_passed(limits.stall_timeout, liveness.output_stalled_since, now):
        return True
    if has_passed(limits.stall_timeout, liveness.reading_stalled_since, now):
        return True
    # While reading is held no pong can arrive, and while writing is paused the ping may not have left.
    return (
        liveness.awaiting_pong and not facts.reading_held and not facts.write_paused
        and limits.ping_timeout != 0.0 and now - liveness.pinged_at >= limits.ping_timeout
    )


cdef bint has_passed(double time, double since, double now) noexcept nogil:
    return time != 0.0 and since != 0.0 and now - since >= time


cdef bint ping_is_due(
    const Liveness *liveness, const Facts *facts, const LimitValues *limits, double now
) noexcept nogil:
    if limits.ping_interval == 0.0 or facts.write_paused:
        return False
    # While reading is held no pong can arrive; further pings still find a broken line, by failing.
    if liveness.awaiting_pong and not (facts.reading_held and now - liveness.pinged_at >= limits.ping_interval):
        return False
    return now - liveness.last_heard >= limits.ping_interval


cdef void pinged(Liveness *liveness, int64_t left, int64_t position, double now) noexcept nogil:
    liveness.pinged_at = now
    liveness.awaiting_pong = True
    liveness.left_mark = left
    liveness.ping_position = position


cdef void resume(Liveness *liveness, double now) noexcept nogil:
    liveness.last_heard = now
    liveness.awaiting_pong = False
    liveness.reading_stalled_since = 0.0


cdef void close_by(Liveness *liveness, double deadline) noexcept nogil:
    liveness.deadline = deadline
    # The first sweep determines how much output is still here.
    liveness.left_mark = -1


# Tests call these. They take and return dicts of all fields, which Cython converts from and to the structs.

def sweep(liveness: dict[str, float], facts: dict[str, float], Settings settings, double now):
    """Return the record after one sweep, the verdict to carry out, and whether a ping is due.

    Args:
        liveness: All fields of the record.
        facts: All that the connection states at this sweep.
        settings: The limits.
        now: The time.
    """
    cdef Liveness record = liveness
    cdef Facts stated = facts
    cdef Verdict verdict
    hear(&record, now)
    if not needs_left(&record, &stated):
        # The connection does not measure it then, so it must make no difference.
        stated.left = stated.moved = -2
    watch(&record, &stated, &settings.limits, now)
    verdict = judge(&record, &stated, &settings.limits, now)
    return record, verdict_reason(verdict), ping_is_due(&record, &stated, &settings.limits, now)


def after_ping(liveness: dict[str, float], int64_t left, int64_t position, double now) -> dict[str, float]:
    """Return the record after a ping was sent."""
    cdef Liveness record = liveness
    pinged(&record, left, position, now)
    return record


def after_pause(liveness: dict[str, float], double now) -> dict[str, float]:
    """Return the record after reading was resumed."""
    cdef Liveness record = liveness
    resume(&record, now)
    return record


def closing_by(liveness: dict[str, float], double deadline) -> dict[str, float]:
    """Return the record after the connection has ended."""
    cdef Liveness record = liveness
    close_by(&record, deadline)
    return record
