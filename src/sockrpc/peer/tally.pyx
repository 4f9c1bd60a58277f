"""What is counted of calls: outcomes and histograms of times, per method."""

from libc.stdint cimport uint64_t
from libc.string cimport memset

from typing import NamedTuple

cdef tuple BOUNDS = tuple([2**i * 1e-6 for i in range(BUCKETS - 1)])


class Histogram(NamedTuple):
    """How long things took.

    Attributes:
        counts: How many took at most `bounds[i]` and more than the bound before; the last: more than all.
        seconds: The sum of the times.
    """

    counts: tuple[int, ...]
    seconds: float

    @property
    def total(self) -> int:
        """How many there were."""
        return sum(self.counts)

    @property
    def bounds(self) -> tuple[float, ...]:
        """The largest time of each bucket, in seconds: powers of two, from 1 µs to 67 s; the last has none."""
        return BOUNDS


class MethodStatistics(NamedTuple):
    """The calls of one method.

    Attributes:
        in_flight: Neither answered nor failed nor aborted.
        answered: The answer was queued for output.
        failed: The handler raised, or ended without an answer; nobody registered the method.
        reset: Aborted by the client's reset.
        lost: Aborted by the loss of the connection.
        timed_out: Aborted by the method's own timeout.
        stopped: Aborted by the stop of the server.
        answers: From the read that completed a request to its answer being queued.
        unwinding: Of calls whose work was cancelled, from the abort to the end of that work.
    """

    in_flight: int
    answered: int
    failed: int
    reset: int
    lost: int
    timed_out: int
    stopped: int
    answers: Histogram
    unwinding: Histogram


class Outcome(NamedTuple):
    """How a call may end for its client.

    Attributes:
        name: The field of `MethodStatistics`, and with `calls_` before it that of `Statistics`.
        abort_reason: What `Call.abort_reason` says; None for what is no abort.
    """

    name: str
    abort_reason: str | None = None

    @property
    def label(self) -> str:
        """What Prometheus shows."""
        return self.abort_reason or self.name

    @property
    def counter(self) -> str:
        """The field of `Statistics`."""
        return f"calls_{self.name}"

    @property
    def text(self) -> str:
        """What people read."""
        return self.name.replace("_", " ")


# The one list of them, in the order of the numbers in tally.pxd.
OUTCOMES = (
    Outcome("answered"),
    Outcome("failed"),
    Outcome("reset", "reset"),
    Outcome("lost", "lost"),
    Outcome("timed_out", "timeout"),
    Outcome("stopped", "stop"),
)
assert len(OUTCOMES) == OUTCOME_COUNT - 1

cdef tuple REASONS = (None, *[outcome.abort_reason for outcome in OUTCOMES])


cdef str abort_reason(int outcome):
    return <str> REASONS[outcome]


cdef object make = tuple.__new__
# Most methods have one that is empty.
cdef object EMPTY = Histogram((0,) * BUCKETS, 0.0)


cdef object shown_histogram(const Times *histogram):
    cdef int i
    for i in range(BUCKETS):
        if histogram.counts[i]:
            break
    else:
        return EMPTY
    return make(Histogram, (tuple([histogram.counts[i] for i in range(BUCKETS)]), histogram.nanoseconds * 1e-9))


cdef object shown(const Tally *tally):
    return make(MethodStatistics, (
        in_flight(tally), *[tally.ended[outcome] for outcome in range(1, OUTCOME_COUNT)],
        shown_histogram(&tally.answers), shown_histogram(&tally.unwinding),
    ))


def histogram_of(seconds: list[float]) -> Histogram:
    """The histogram of some times."""
    cdef Times histogram
    cdef double each
    memset(&histogram, 0, sizeof(Times))
    for each in seconds:
        observe(&histogram, each)
    return shown_histogram(&histogram)
