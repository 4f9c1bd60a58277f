# Method and event names as received: UTF-8 bytes that are looked up without building a Python string.

from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t, uint32_t

cdef struct Slot:
    uint32_t hash
    PyObject *name       # bytes, borrowed from `kept`; NULL: an empty slot
    PyObject *value      # borrowed likewise

cdef class NameTable:
    cdef list kept                # (name, value) pairs, through which the cyclic collector sees the table
    cdef Slot *slots
    cdef Py_ssize_t mask          # the number of slots, a power of two, minus one
    cdef Py_ssize_t used

    # The value of `name`, borrowed; NULL if the name is not registered. Never raises.
    cdef PyObject *find(self, const uint8_t *name, Py_ssize_t size) noexcept
    cdef int put(self, bytes name, object value) except -1
    cdef int grow(self) except -1
    cdef Slot *probe(self, const uint8_t *name, Py_ssize_t size, uint32_t hash) noexcept
