"""Growable memory, and its reuse.

The system clears and maps a page before it hands it out. For a message of a megabyte that takes
longer than to receive it, and malloc returns such memory to the system each time.
"""

from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from sockrpc._debug cimport DEBUG, SANITIZE, count_memory

cdef Py_ssize_t SMALLEST_BUFFER = 512


cdef int buffer_reserve(Buffer *buffer, Py_ssize_t extra) except -1:
    cdef Py_ssize_t wanted = buffer.size + extra
    cdef Py_ssize_t capacity
    cdef void *grown
    if wanted <= buffer.capacity:
        return 0
    # Allocate exactly what is wanted if AddressSanitizer has to catch writes beyond `size`.
    capacity = wanted if SANITIZE else max(wanted, buffer.capacity * 2, SMALLEST_BUFFER)
    grown = PyMem_Realloc(buffer.data, capacity)
    if grown == NULL:
        raise MemoryError
    if DEBUG:
        count_memory(0 if buffer.data != NULL else 1, capacity - buffer.capacity)
    buffer.data = <uint8_t *> grown
    buffer.capacity = capacity
    return 0


cdef int buffer_append(Buffer *buffer, const uint8_t *data, Py_ssize_t size) except -1:
    if size == 0:
        return 0
    buffer_reserve(buffer, size)
    memcpy(buffer.data + buffer.size, data, size)
    buffer.size += size
    return 0


cdef void buffer_free(Buffer *buffer) noexcept:
    if DEBUG and buffer.data != NULL:
        count_memory(-1, -buffer.capacity)
    PyMem_Free(buffer.data)
    forget(buffer)


cdef void forget(Buffer *buffer) noexcept:
    buffer.data = NULL
    buffer.size = 0
    buffer.capacity = 0


cdef void spares_take(Spares *spares, Buffer *buffer) noexcept:
    if spares.count and buffer.data == NULL:
        spares.count -= 1
        buffer[0] = spares.kept[spares.count]
        spares.bytes -= buffer.capacity


cdef void spares_give(Spares *spares, Buffer *buffer) noexcept:
    # Always free it if a sanitizer has to catch reads and writes after this.
    if (
        SANITIZE or spares.count == SPARES
        or not MIN_SPARE_BYTES <= buffer.capacity <= MAX_SPARE_BYTES - spares.bytes
    ):
        buffer_free(buffer)
        return
    buffer.size = 0
    spares.kept[spares.count] = buffer[0]
    spares.count += 1
    spares.bytes += buffer.capacity
    spares.used = True
    forget(buffer)


cdef void spares_age(Spares *spares) noexcept:
    if not spares.used:
        spares_free(spares)
    spares.used = False


cdef void spares_free(Spares *spares) noexcept:
    while spares.count:
        spares.count -= 1
        buffer_free(&spares.kept[spares.count])
    spares.bytes = 0
