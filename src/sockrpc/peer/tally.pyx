"""Counters of calls per method: endings and histograms of times."""

from libc.stdint cimport uint64_t
from libc.string cimport memset

from typing import NamedTuple

cdef tuple BOUNDS = tuple([2**i * 1e-6 for i in range(BUCKETS - 1)])


class Histogram(NamedTuple):
    """A distribution of durations.

    Attributes:
        counts: `counts[i]` values were at most `bounds[i]` and above the bound before; the last exceed all bounds.
        seconds: The sum of the times.
    """

    counts: tuple[int, ...]
    seconds: float

    @property
    def total(self) -> int:
        """The number of durations."""
        return sum(self.counts)

    @property
    def bounds(self) -> tuple[float, ...]:
        """The upper bound of each bucket in seconds: powers of two, from 1 µs to 67 s; the last has none."""
        return BOUNDS


class MethodStatistics(NamedTuple):
    """Counts for the calls of one method.

    Attributes:
        in_flight: Calls that were neither answered nor failed nor aborted.
        answered: The answer was queued for output.
        failed: The handler raised or ended without an answer, or the method is not registered.
        reset: Aborted by the client's reset.
        lost: Aborted by the loss of the connection.
        timed_out: Aborted by the method's own timeout, or by its caller's (v1).
        stopped: Aborted by the stop of the server.
        answers: From the read that completed a request to its answer being queued.
        unwinding: From the abort of a call whose work was cancelled to the end of that work.
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


class Ending(NamedTuple):
    """A way in which a call may end for its client.

    Attributes:
        name: The field of `MethodStatistics`, and with `calls_` before it that of `Statistics`.
        abort_reason: The value of `Call.abort_reason`; None if it is no abort.
    """

    name: str
    abort_reason: str | None = None

    @property
    def label(self) -> str:
        """The label in Prometheus."""
        return self.abort_reason or self.name

    @property
    def counter(self) -> str:
        """The field of `Statistics`."""
        return f"calls_{self.name}"

    @property
    def text(self) -> str:
        """The name for human readers."""
        return self.name.replace("_", " ")


# The only list of endings, in the order of the numbers in tally.pxd.
ENDINGS = (
    Ending("answered"),
    Ending("failed"),
    Ending("reset", "reset"),
    Ending("lost", "lost"),
    Ending("timed_out", "timeout"),
    Ending("stopped", "stop"),
)
assert len(ENDINGS) == ENDING_COUNT - 1

cdef tuple REASONS = (None, *[ending.abort_reason for ending in ENDINGS])


cdef str abort_reason(int ending):
    return <str> REASONS[ending]


cdef object make = tuple.__new__
# Most methods have a histogram that is empty, so they share one.
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
        in_flight(tally), *[tally.ended[ending] for ending in range(1, ENDING_COUNT)],
        shown_histogram(&tally.answers), shown_histogram(&tally.unwinding),
    ))


def histogram_of(seconds: list[float]) -> Histogram:
    """Build a histogram from durations in seconds."""
    cdef Times histogram
    cdef double each
    memset(&histogram, 0, sizeof(Times))
    for each in seconds:
        observe(&histogram, each)
    return shown_histogram(&histogram)
