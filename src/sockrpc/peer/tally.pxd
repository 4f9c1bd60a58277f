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

# The ways a call ends for its client; the rows of ENDINGS (tally.pyx) have the names of each.
cdef enum:
    ENDING_NONE = 0       # in flight
    ENDING_ANSWERED = 1
    ENDING_FAILED = 2
    ENDING_RESET = 3      # this and those after it are aborts
    ENDING_LOST = 4
    ENDING_TIMED_OUT = 5
    ENDING_STOPPED = 6
    ENDING_COUNT = 7

cdef struct Times:
    uint64_t counts[BUCKETS]
    uint64_t nanoseconds             # the sum of all times

# The counters of one method on one server.
cdef struct Tally:
    uint64_t received
    uint64_t[ENDING_COUNT] ended    # by ending; the difference to `received` is in flight
    Times answers                # from the read that completed the request to the queued answer
    Times unwinding              # from the abort to the end of the work

# Beside the peer's own calls, what a connection has carried; a server adds that of ended ones up.
cdef struct Traffic:
    uint64_t items_received
    uint64_t item_bytes_received     # payloads and cursors
    uint64_t items_sent
    uint64_t item_bytes_sent
    uint64_t calls_made              # towards the peer
    uint64_t calls_answered          # calls towards the peer that it has answered

cdef inline void observe(Times *times, double seconds) noexcept nogil:
    # The clocks of two processors may differ slightly.
    cdef uint64_t nanoseconds = <uint64_t> (seconds * 1e9) if seconds > 0.0 else 0
    cdef int bucket = sockrpc_bit_length((nanoseconds - 1) // 1000) if nanoseconds else 0
    times.counts[bucket if bucket < BUCKETS else BUCKETS - 1] += 1
    times.nanoseconds += nanoseconds

cdef inline uint64_t in_flight(const Tally *tally) noexcept nogil:
    cdef uint64_t count = tally.received
    cdef int ending
    for ending in range(ENDING_COUNT):
        count -= tally.ended[ending]
    return count

cdef inline void add_endings(Tally *total, const Tally *tally) noexcept nogil:
    cdef int ending
    for ending in range(ENDING_COUNT):
        total.ended[ending] += tally.ended[ending]

cdef inline void add_traffic(Traffic *total, const Traffic *carried) noexcept nogil:
    total.items_received += carried.items_received
    total.item_bytes_received += carried.item_bytes_received
    total.items_sent += carried.items_sent
    total.item_bytes_sent += carried.item_bytes_sent
    total.calls_made += carried.calls_made
    total.calls_answered += carried.calls_answered

cdef str abort_reason(int ending)           # None if the ending is no abort
cdef object shown(const Tally *tally)        # returns a MethodStatistics
