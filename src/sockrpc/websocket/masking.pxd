# Masking of the frames that clients send (RFC 6455 5.3).

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

# Inline, so that compilers see whether `out` is `data` itself and vectorise both cases.
cdef inline void mask_into(uint8_t *out, const uint8_t *data, Py_ssize_t size, const uint8_t *mask) noexcept nogil:
    # memcpy instead of a cast: `data` is not aligned; compilers turn it into one load and one store.
    cdef uint64_t word
    cdef uint64_t key
    cdef uint8_t key_bytes[8]
    cdef Py_ssize_t i = 0
    memcpy(key_bytes, mask, 4)
    memcpy(key_bytes + 4, mask, 4)
    memcpy(&key, key_bytes, 8)
    while i + 8 <= size:
        memcpy(&word, data + i, 8)
        word ^= key
        memcpy(out + i, &word, 8)
        i += 8
    while i < size:
        out[i] = data[i] ^ mask[i & 3]
        i += 1

cdef void apply_mask(uint8_t *data, Py_ssize_t size, const uint8_t *mask) noexcept nogil
# Writes four bytes from a cryptographic source (RFC 6455 5.3 and 10.3).
cdef int fresh_mask(uint8_t *out) except -1
