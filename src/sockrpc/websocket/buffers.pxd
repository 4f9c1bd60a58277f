# Growable memory, and its reuse.

from libc.stdint cimport uint8_t

# A growable block of memory. `data` is NULL while nothing is kept.
cdef struct Buffer:
    uint8_t *data
    Py_ssize_t size            # bytes in use
    Py_ssize_t capacity        # bytes allocated

cdef int buffer_reserve(Buffer *buffer, Py_ssize_t extra) except -1
cdef int buffer_append(Buffer *buffer, const uint8_t *data, Py_ssize_t size) except -1
cdef void buffer_free(Buffer *buffer) noexcept

cdef enum:
    SPARES = 8
    # This limits the sum of all spares.
    MAX_SPARE_BYTES = 16 * 1024 * 1024
    # malloc serves smaller blocks from its own cache.
    MIN_SPARE_BYTES = 64 * 1024

# The buffers of large messages that were handled, kept for the next ones.
cdef struct Spares:
    Buffer[SPARES] kept
    int count
    Py_ssize_t bytes           # allocated, in all of them
    bint used                  # since the last call of `spares_age`

# Turns a spare into an empty buffer, if there is one.
cdef void spares_take(Spares *spares, Buffer *buffer) noexcept
# Frees a buffer, or keeps its memory as a spare.
cdef void spares_give(Spares *spares, Buffer *buffer) noexcept
# Frees the spares if they were not used since the last call.
cdef void spares_age(Spares *spares) noexcept
cdef void spares_free(Spares *spares) noexcept
