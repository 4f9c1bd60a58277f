"""Features of debug builds: counts of objects created and freed, and parsing in isolated memory.

In a release build nothing calls this module, and its counters stay empty.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.ref cimport Py_INCREF, PyObject
from libc.stdint cimport uint8_t
from libc.string cimport memcpy

cdef extern from "Python.h":
    PyObject *type_of "(PyObject *) Py_TYPE" (PyObject *)

cdef struct Kind:
    PyObject *type       # owned, because the address of a freed type could be reused by another
    Py_ssize_t created
    Py_ssize_t freed

cdef enum:
    KINDS = 32           # more than there are compiled classes; the last one counts the rest

cdef Kind[KINDS] kinds
cdef Py_ssize_t blocks_allocated = 0
cdef Py_ssize_t blocks_freed = 0
cdef Py_ssize_t bytes_allocated = 0
cdef Py_ssize_t bytes_freed = 0


# This neither allocates nor raises, because it runs while objects are being made and torn down.
cdef Kind *kind_of(PyObject *instance) noexcept:
    cdef PyObject *type = type_of(instance)
    cdef int i = 0
    while i < KINDS - 1 and kinds[i].type != NULL and kinds[i].type != type:
        i += 1
    if kinds[i].type == NULL:
        Py_INCREF(<object> type)
        kinds[i].type = type
    return &kinds[i]


cdef void count_created(PyObject *instance) noexcept:
    kind_of(instance).created += 1


cdef void count_freed(PyObject *instance) noexcept:
    kind_of(instance).freed += 1


cdef void count_memory(Py_ssize_t blocks, Py_ssize_t size) noexcept:
    global blocks_allocated, blocks_freed, bytes_allocated, bytes_freed
    if blocks > 0:
        blocks_allocated += blocks
    else:
        blocks_freed -= blocks
    if size > 0:
        bytes_allocated += size
    else:
        bytes_freed -= size


cdef uint8_t *isolate(const uint8_t *data, Py_ssize_t size) except NULL:
    cdef uint8_t *copy = <uint8_t *> PyMem_Malloc(size)
    if copy == NULL:
        raise MemoryError
    memcpy(copy, data, size)
    return copy


cdef void free_isolated(const uint8_t *data) noexcept:
    PyMem_Free(<void *> data)


def is_debug() -> bool:
    """True if this build counts: SOCKRPC_DEBUG, SOCKRPC_TRACE or SOCKRPC_SANITIZE was set when it was compiled."""
    return DEBUG


def is_sanitized() -> bool:
    """True if this build uses AddressSanitizer: SOCKRPC_SANITIZE was set when it was compiled."""
    return SANITIZE


def counters() -> dict[str, tuple[int, int]]:
    """Counts of creations and frees since the process began: instances by class, "blocks" and "bytes" of memory."""
    cdef dict counted = {}
    cdef int i
    if not DEBUG:
        return counted
    for i in range(KINDS):
        if kinds[i].type != NULL:
            counted[(<object> kinds[i].type).__name__] = kinds[i].created, kinds[i].freed
    counted["blocks"] = blocks_allocated, blocks_freed
    counted["bytes"] = bytes_allocated, bytes_freed
    return counted


def live() -> dict[str, int]:
    """Live instances by class; classes with none are left out."""
    return {name: created - freed for name, (created, freed) in counters().items() if created != freed}
