# Features of debug builds: counts of objects created and freed, and parsing in isolated memory.

from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t

# Constants of the C compiler (setup.py): a release build has no code that depends on them.
cdef extern from *:
    """
    #ifndef SOCKRPC_DEBUG
    #define SOCKRPC_DEBUG 0
    #endif
    #ifndef SOCKRPC_SANITIZE
    #define SOCKRPC_SANITIZE 0
    #endif
    """
    bint DEBUG "SOCKRPC_DEBUG"
    bint SANITIZE "SOCKRPC_SANITIZE"

# Called in the first line of __cinit__ and of __dealloc__ of each base class.
cdef void count_created(PyObject *instance) noexcept
cdef void count_freed(PyObject *instance) noexcept
# Counts our own memory: how many blocks and bytes are added, or freed if negative.
cdef void count_memory(Py_ssize_t blocks, Py_ssize_t size) noexcept

# Returns a copy of exactly this size: AddressSanitizer sees reads past its end, and after it was freed.
cdef uint8_t *isolate(const uint8_t *data, Py_ssize_t size) except NULL
cdef void free_isolated(const uint8_t *data) noexcept
