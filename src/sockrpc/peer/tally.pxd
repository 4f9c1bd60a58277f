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

cdef struct Times:
    uint64_t counts[BUCKETS]
    uint64_t nanoseconds             # of all together

# Of one method on one server.
cdef struct Tally:
    uint64_t received                # less all of the next six: in flight
    uint64_t answered
    uint64_t failed
    uint64_t reset
    uint64_t lost
    uint64_t timed_out
    uint64_t stopped
    Times answers                # from the read that completed the request to the queued answer
    Times unwinding              # from the abort to the end of the work

cdef inline void observe(Times *times, double seconds) noexcept nogil:
    # Clocks of two processors may differ by a little.
    cdef uint64_t nanoseconds = <uint64_t> (seconds * 1e9) if seconds > 0.0 else 0
    cdef int bucket = sockrpc_bit_length((nanoseconds - 1) // 1000) if nanoseconds else 0
    times.counts[bucket if bucket < BUCKETS else BUCKETS - 1] += 1
    times.nanoseconds += nanoseconds

cdef inline void count_answer(Tally *tally, double seconds) noexcept nogil:
    tally.answered += 1
    observe(&tally.answers, seconds)

cdef inline uint64_t in_flight(const Tally *tally) noexcept nogil:
    return (
        tally.received - tally.answered - tally.failed - tally.reset - tally.lost - tally.timed_out
        - tally.stopped
    )

cdef inline void add_outcomes(Tally *total, const Tally *tally) noexcept nogil:
    total.answered += tally.answered
    total.failed += tally.failed
    total.reset += tally.reset
    total.lost += tally.lost
    total.timed_out += tally.timed_out
    total.stopped += tally.stopped

cdef int count_abort(Tally *tally, str reason) except -1
cdef object shown(const Tally *tally)        # a MethodStatistics
