# Counters of calls in C, so that settling a call costs one increment.

from libc.stdint cimport uint64_t

cdef extern from *:
    """
    #ifdef _MSC_VER
    #include <intrin.h>
    static int sockrpc_bit_length(unsigned long long value) {
        unsigned long last;
        return _BitScanReverse64(&last, value) ? (int) last + 1 : 0;
    }
    #else
    static inline int sockrpc_bit_length(unsigned long long value) {
        return value ? 64 - __builtin_clzll(value) : 0;
    }
    #endif
    """
    int sockrpc_bit_length(unsigned long long value) noexcept nogil

cdef enum:
    # Bucket i counts times of at most 2**i microseconds that no lower bucket counts; the last takes the rest.
    BUCKETS = 28

# The ways a call ends for its client; the rows of OUTCOMES (tally.pyx) have the names of each.
cdef enum:
    OUTCOME_NONE = 0       # in flight
    OUTCOME_ANSWERED = 1
    OUTCOME_FAILED = 2
    OUTCOME_RESET = 3      # this and those after it are aborts
    OUTCOME_LOST = 4
    OUTCOME_TIMED_OUT = 5
    OUTCOME_STOPPED = 6
    OUTCOME_COUNT = 7

cdef struct Times:
    uint64_t counts[BUCKETS]
    uint64_t nanoseconds             # the sum of all times

# The counters of one method on one server.
cdef struct Tally:
    uint64_t received
    uint64_t[OUTCOME_COUNT] ended    # by outcome; the difference to `received` is in flight
    Times answers                # from the read that completed the request to the queued answer
    Times unwinding              # from the abort to the end of the work

cdef inline void observe(Times *times, double seconds) noexcept nogil:
    # The clocks of two processors may differ slightly.
    cdef uint64_t nanoseconds = <uint64_t> (seconds * 1e9) if seconds > 0.0 else 0
    cdef int bucket = sockrpc_bit_length((nanoseconds - 1) // 1000) if nanoseconds else 0
    times.counts[bucket if bucket < BUCKETS else BUCKETS - 1] += 1
    times.nanoseconds += nanoseconds

cdef inline uint64_t in_flight(const Tally *tally) noexcept nogil:
    cdef uint64_t count = tally.received
    cdef int outcome
    for outcome in range(OUTCOME_COUNT):
        count -= tally.ended[outcome]
    return count

cdef inline void add_outcomes(Tally *total, const Tally *tally) noexcept nogil:
    cdef int outcome
    for outcome in range(OUTCOME_COUNT):
        total.ended[outcome] += tally.ended[outcome]

cdef str abort_reason(int outcome)           # None if the outcome is no abort
cdef object shown(const Tally *tally)        # returns a MethodStatistics
