# The request-id table, which maps the ids of calls in flight to the calls.

from cpython.ref cimport PyObject
from libc.stdint cimport int32_t, uint32_t

# The base class of objects in a table. A table owns no entry: the code that needs an entry must hold it, and an
# entry that dies removes itself.
cdef class Entry:
    cdef readonly uint32_t id
    cdef int32_t alarm               # its place among the alarms of its connection, from 1; 0: none is set
    cdef double until                # loop time of its deadline, 0.0: none
    cdef RequestTable table          # the table that holds it, None if there is none
    cdef PyObject *next_in_bucket    # borrowed

cdef class RequestTable:
    cdef PyObject **buckets          # NULL until the first entry; each bucket is a chain of borrowed entries
    cdef int shift                   # 32 minus the logarithm of the number of buckets
    cdef Py_ssize_t count
    cdef uint32_t last_id            # the last id that `allocate` returned
    cdef uint32_t first_id           # `allocate` returns ids from this
    cdef uint32_t final_id           # to this, and then starts anew

    # Returns the entry of `id`, borrowed; NULL if none is in flight.
    cdef PyObject *find(self, uint32_t id) noexcept
    # Returns False and changes nothing if the entry's id is in flight.
    cdef bint insert(self, Entry entry) except -1
    # Inserts an entry whose id is known to be free.
    cdef int add(self, Entry entry) except -1
    # Removes by identity; True if this very entry was in the table.
    cdef bint take(self, Entry entry) noexcept
    cdef uint32_t allocate(self) noexcept
    # Lets `allocate` return ids of a range only, starting with its first.
    cdef int set_range(self, uint32_t first, uint32_t final) except -1
    cdef list entries(self)
    # Returns any entry, or None; `bucket` starts at 0, and between two calls entries may only be removed.
    cdef Entry next_entry(self, Py_ssize_t *bucket)
    cdef int resize(self, int shift) except -1
