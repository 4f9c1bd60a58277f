# What only debug builds do: count what is created and freed, and keep what is parsed out of other memory.

from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t

# Constants of the C compiler (setup.py): what depends on them is not in a release build.
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

# For the first line of __cinit__ and of __dealloc__ of the class that begins a line of descent.
cdef void count_created(PyObject *instance) noexcept
cdef void count_freed(PyObject *instance) noexcept
# Memory of our own: how many blocks and bytes more, or less where they are negative.
cdef void count_memory(Py_ssize_t blocks, Py_ssize_t size) noexcept

# A copy of exactly this size: AddressSanitizer sees a read past its end, and after it was freed.
cdef uint8_t *isolate(const uint8_t *data, Py_ssize_t size) except NULL
cdef void free_isolated(const uint8_t *data) noexcept
