# Method and event names as received: bytes of UTF-8, looked up without building a Python string.

from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t, uint32_t

cdef struct Slot:
    uint32_t hash
    PyObject *name       # bytes, borrowed from `kept`; NULL: an empty slot
    PyObject *value      # the same

cdef class NameTable:
    cdef list kept                # (name, value): what the collector sees of the table
    cdef Slot *slots
    cdef Py_ssize_t mask          # number of slots, a power of two, less one
    cdef Py_ssize_t used

    # The value of `name`, borrowed; NULL if nobody registered it. Never raises.
    cdef PyObject *find(self, const uint8_t *name, Py_ssize_t size) noexcept
    cdef int put(self, bytes name, object value) except -1
    cdef int grow(self) except -1
    cdef Slot *probe(self, const uint8_t *name, Py_ssize_t size, uint32_t hash) noexcept
