# What is counted of calls, in C: one increment where a call is settled.

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
    # Bucket i holds what took at most 2**i microseconds and is in no bucket before it; the last one the rest.
    BUCKETS = 28

# How a call ended for its client; the rows of OUTCOMES (tally.pyx) say what each is called where.
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
    uint64_t nanoseconds             # of all together

# Of one method on one server.
cdef struct Tally:
    uint64_t received
    uint64_t[OUTCOME_COUNT] ended    # by outcome; the rest of what was received is in flight
    Times answers                # from the read that completed the request to the queued answer
    Times unwinding              # from the abort to the end of the work

cdef inline void observe(Times *times, double seconds) noexcept nogil:
    # Clocks of two processors may differ by a little.
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

cdef str abort_reason(int outcome)           # None for what is no abort
cdef object shown(const Tally *tally)        # a MethodStatistics
